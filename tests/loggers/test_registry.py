"""The names of loggers, and the errors about wrong ones."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

from protoseg.errors import UsageError
from protoseg.loggers import registry

ROOT = Path(__file__).parents[2]


def test_our_loggers_are_registered_like_those_of_others() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["protoseg.loggers"] == registry.BUILT_IN
    assert set(registry.PACKAGES) <= set(project["optional-dependencies"])
    for value in registry.BUILT_IN.values():
        module, _, name = value.partition(":")
        cls = getattr(importlib.import_module(module), name)
        assert all(callable(getattr(cls, method)) for method in registry.METHODS)


def test_a_logger_of_another_package_is_listed(plugin_folder: Path) -> None:
    assert registry.list_loggers()["recorder"] == "recorder_logger:Recorder"
    assert registry.check_loggers(["recorder", "jsonl", "recorder"], "x") == ["recorder", "jsonl"]


def test_an_unknown_logger_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--logger: unknown logger 'tensorbord'.*tensorboard"):
        registry.check_loggers(["tensorbord"], "--logger")


def test_a_logger_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(UsageError) as error:
        registry.check_loggers(["wandb"], "--logger")
    assert str(error.value) == (
        "--logger: logger wandb: the package no_such_package is not installed. "
        "Run pip install 'protoseg[wandb]'."
    )


def test_a_class_without_a_method_is_refused(plugin_folder: Path) -> None:
    (plugin_folder / "recorder_logger.py").write_text(
        "class Recorder:\n    def start(self, run): pass\n    log = finish = start\n"
    )
    with pytest.raises(UsageError, match=r"has no method log_metrics. Required: start, log,"):
        registry.make_logger("recorder")
