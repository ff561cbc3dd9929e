"""A backbone class named by its full path: built, or refused with one error message."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from mmseg.models.backbones import MobileNetV2

from protoseg.config.compose import Composer
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.training.builders.config import build_model
from protoseg.training.builders.parameter_counts import build_without_memory

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def spec_with_type(name: str) -> RunSpec:
    spec = Composer(EXPERIMENTS).spec([], "test")
    settings = {"_delete_": True, "type": name}
    return dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, settings=settings))


def test_a_class_named_by_its_full_path_is_built() -> None:
    model = build_model(spec_with_type("mmseg.models.backbones.MobileNetV2"))
    assert type(build_without_memory(model["backbone"])) is MobileNetV2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "nowhere_at_all.Net",
            r"nowhere_at_all cannot be imported \(ModuleNotFoundError: No mod",
        ),
        ("json.decoder.Net", r"unknown class of json.decoder 'Net'. Known: JSONDecodeError, JSOND"),
    ],
)
def test_a_missing_class_is_reported_with_its_config_key(name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_model(spec_with_type(name))
    assert str(caught.value).startswith("backbone.settings.type: ")
    assert re.search(sentence, str(caught.value))
