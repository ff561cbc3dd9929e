"""The deprecated import path of the LaTeX format."""

from __future__ import annotations

import importlib
import sys

import pytest

from protoseg.report.formats import latex


def test_the_old_path_exports_the_same_names_and_warns_with_the_new_path() -> None:
    sys.modules.pop("protoseg.report.latex", None)
    with pytest.warns(DeprecationWarning, match=r"import protoseg\.report\.formats\.latex"):
        old = importlib.import_module("protoseg.report.latex")
    assert {name: getattr(old, name) for name in old.__all__} == {
        name: getattr(latex, name) for name in old.__all__
    }
    assert {"to_latex", "escape"} <= set(old.__all__)
