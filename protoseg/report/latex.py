"""Deprecated path of `protoseg.report.formats.latex`; it is removed in the next release."""

from __future__ import annotations

import warnings

from protoseg.report.formats.latex import SMALLER, SPANNING, SPECIALS, to_latex
from protoseg.report.formats.latex import escape_latex as escape

__all__ = ["SMALLER", "SPANNING", "SPECIALS", "escape", "to_latex"]

warnings.warn(
    "protoseg.report.latex is deprecated; import protoseg.report.formats.latex instead.",
    DeprecationWarning,
    stacklevel=2,
)
