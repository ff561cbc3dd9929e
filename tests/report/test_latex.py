"""The deprecated import path of the LaTeX format."""

from __future__ import annotations

import importlib
import sys

import pytest

from protoseg.report.formats import latex, latex_letters


def test_the_old_path_exports_the_same_functions_and_warns_with_the_new_path() -> None:
    sys.modules.pop("protoseg.report.latex", None)
    with pytest.warns(DeprecationWarning, match=r"Import protoseg\.report\.formats\.latex"):
        old = importlib.import_module("protoseg.report.latex")
    assert (old.to_latex, old.escape) == (latex.to_latex, latex_letters.escape_latex)
    assert old.SPECIALS is latex_letters.SPECIALS
    for name in ("SPANNING", "SMALLER"):
        assert getattr(old, name) is getattr(latex, name)
