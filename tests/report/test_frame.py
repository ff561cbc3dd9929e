"""The tidy frame: its dtypes whether or not anything ran, and its values."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from protoseg.errors import UsageError
from protoseg.report.frame import MEASURED, tidy
from report.lab import COMMIT, Lab, make_matrix, make_spec, method, methods_matrix


def test_dtypes_do_not_depend_on_results(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1"])
    empty = tidy(matrix, lab.store)
    lab.finish(method("parametric 1", 1), 70.0)
    some = tidy(matrix, lab.store)
    for key in ("seed", "state", "reason", *MEASURED):
        assert empty[key].dtype == some[key].dtype, key
    assert {key: str(empty[key].dtype) for key in MEASURED} == MEASURED
    assert empty[list(MEASURED)].isna().all(axis=None)
    assert list(empty["state"]) == ["new"] * 3
    assert tidy(dataclasses.replace(matrix, runs=()), lab.store).shape[0] == 0


def test_values(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1"])
    lab.finish(method("parametric 1", 0), 70.0, metrics={"boundary": 3.5})
    lab.fail(method("parametric 1", 1), "code_error", "a bug")
    frame = tidy(matrix, lab.store).set_index("seed")
    done = frame.loc[0]
    assert (done["miou"], done["macc"], done["boundary"], done["images"]) == (70, 78, 3.5, 101)
    assert (done["parameters_learnable"], done["parameters_prototype"]) == (3.72, 0.28)
    assert (done["seconds"], done["gpu_hours"], done["commit"]) == (1234.5, 0.34, COMMIT)
    assert done["finished"] == pd.Timestamp("2026-01-02", tz="UTC")
    assert not done["dirty"]
    assert tuple(frame.loc[1, ["state", "reason", "message"]]) == ("failed", "code_error", "a bug")
    assert frame.loc[2, "state"] == "new"
    assert frame["miou"].mean() == 70.0


def test_axes_become_columns(lab: Lab) -> None:
    planned = [(make_spec(), {"scale": [1, 2], "k": 1}), (make_spec(1), {"scale": None, "k": 2})]
    frame = tidy(make_matrix(planned), lab.store)
    assert list(frame.columns[:4]) == ["matrix", "scale", "k", "seed"]
    assert frame["scale"][0] == "[1, 2]"
    assert frame["k"].dtype == "int64"
    with pytest.raises(UsageError, match="'seed'"):
        tidy(make_matrix([(make_spec(), {"seed": 1})]), lab.store)
