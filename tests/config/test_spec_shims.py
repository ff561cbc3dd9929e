"""The old paths ``protoseg.spec.*`` have the same objects and warn with the new path."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from protoseg.config.fields import to_plain
from protoseg.config.identity import read_spec, run_id
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec

pytestmark = pytest.mark.install

MODULES = {
    "compose": ("compose", "overrides"),
    "fields": ("fields",),
    "methods": ("methods",),
    "schema": ("schema",),
}
"""Module of protoseg.spec -> the modules of protoseg.config with its names."""


@pytest.fixture
def unimported() -> Iterator[None]:
    """Unload the old modules before and after a test: only the first import warns."""

    def unload() -> None:
        for name in [n for n in sys.modules if n.partition(".")[0] == "plugin_of_old_path"]:
            del sys.modules[name]
        for module in MODULES:
            sys.modules.pop(f"protoseg.spec.{module}", None)

    unload()
    yield
    unload()


@pytest.mark.usefixtures("unimported")
@pytest.mark.parametrize("module", MODULES)
def test_an_old_module_has_the_objects_of_the_new_one(module: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"Import protoseg\.config\.{module} instead\."):
        old = importlib.import_module(f"protoseg.spec.{module}")
    for new_module in MODULES[module]:
        new = vars(importlib.import_module(f"protoseg.config.{new_module}"))
        names = [name for name in new if not name.startswith("_")]
        assert names
        for name in names:
            assert getattr(old, name) is new[name], name


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from protoseg.spec.fields import number
from protoseg.spec.methods import MethodSpec

@dataclass(frozen=True)
class OldStyle(MethodSpec):
    kind: str = "plugin_of_old_path.OldStyle"
    head: ClassVar[str] = "plugin_of_old_path.Head"
    sharpness: float = number(2.0, low=0)
"""


@pytest.mark.usefixtures("unimported")
def test_a_plugin_with_old_imports_works_and_each_warning_shows_its_line(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plugin_of_old_path.py"
    file.write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(MethodSpec, "variants", dict(MethodSpec.variants))
    data = {**to_plain(spec), "method": {"kind": "plugin_of_old_path.OldStyle"}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plugin_spec = read_spec(data, "run.json")
    assert isinstance(plugin_spec.method, MethodSpec)
    assert to_plain(plugin_spec.method) == {"kind": "plugin_of_old_path.OldStyle", "sharpness": 2.0}
    assert run_id(plugin_spec).startswith("shapes-tiny-segformer-oldstyle-s0-")
    lines = PLUGIN.splitlines()
    shown = [(w.category, w.filename, lines[w.lineno - 1]) for w in caught]
    assert shown == [
        (DeprecationWarning, str(file), "from protoseg.spec.fields import number"),
        (DeprecationWarning, str(file), "from protoseg.spec.methods import MethodSpec"),
    ]
