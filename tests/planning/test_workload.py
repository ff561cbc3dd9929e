"""The workload of a run, and the key of its model: equal for a spec and for its record."""

from __future__ import annotations

from typing import Any

import pytest
from report.lab import make_record, make_spec

from protoseg.planning import timings
from protoseg.planning.workload import (
    describe_workload,
    make_model_key,
    workload_digest,
    workload_of,
)

PROTOTYPE = {"kind": "prototype", "num_prototypes": 10}


@pytest.mark.parametrize("method", [{}, PROTOTYPE])
def test_a_spec_and_its_record_have_the_same_workload_and_model(method: dict[str, Any]) -> None:
    spec = make_spec(method=method)
    recorded = make_record(spec, 70.0)["spec"]
    assert workload_of(recorded) == workload_of(spec)
    assert make_model_key(recorded) == make_model_key(spec)


@pytest.mark.parametrize(
    ("changes", "same_workload", "same_model"),
    [
        ({"seed": 5}, True, True),
        ({"schedule": {"iterations": 7}}, True, True),
        ({"schedule": {"batch_size": 4}}, False, True),
        ({"augmentation": {"crop_size": [64, 64]}}, False, True),
        ({"method": {"num_prototypes": 3}}, False, False),
        ({"decoder": {"channels": 64}}, False, False),
    ],
    ids=str,
)
def test_keys_of_the_spec_that_change_the_workload_or_the_model(
    changes: dict[str, Any], same_workload: bool, same_model: bool
) -> None:
    spec, changed = make_spec(), make_spec(**changes)
    assert (workload_digest(spec) == workload_digest(changed)) == same_workload
    assert (make_model_key(spec) == make_model_key(changed)) == same_model


def test_prototypes_are_no_learnable_parameters_of_the_model() -> None:
    one, ten = make_spec(method={**PROTOTYPE, "num_prototypes": 1}), make_spec(method=PROTOTYPE)
    assert make_model_key(one) == make_model_key(ten)
    assert workload_of(one) != workload_of(ten)


def test_a_workload_is_described_in_one_line() -> None:
    assert describe_workload(make_spec(method=PROTOTYPE)) == (
        "mit_b0, segformer, prototype, K = 10, 3 classes, 8 × 360×360"
    )


def test_the_code_version_is_a_digest_of_existing_sources() -> None:
    assert len(timings.code_version()) == 64
