"""Old path of `protoseg.report.formats.latex`, kept for one release."""

from __future__ import annotations

from protoseg.deprecation import warn_moved
from protoseg.report.formats.latex import SMALLER, SPANNING, to_latex
from protoseg.report.formats.latex_letters import SPECIALS
from protoseg.report.formats.latex_letters import escape_latex as escape

__all__ = ["SMALLER", "SPANNING", "SPECIALS", "escape", "to_latex"]

warn_moved(__name__, "protoseg.report.formats.latex")
