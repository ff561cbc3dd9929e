"""Typesets LaTeX tables in a document, as in a paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from waiting import DEADLINE

NEEDS_LATEX = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed"
)


def typeset(sources: Sequence[str], folder: Path, *, columns: int = 1) -> None:
    """Compile tables; fail on an error, a missing character, or a table wider than the text."""
    # LaTeX allows few floats at once, so each table gets its own page.
    body = "\n\\clearpage\n".join(sources)
    (folder / "document.tex").write_text(
        "\\documentclass[" + ("twocolumn" if columns == 2 else "onecolumn") + "]{article}"
        "\\usepackage{booktabs,graphicx}\\begin{document}\n" + body + "\n\\end{document}\n"
    )
    result = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE,
    )
    assert result.returncode == 0, result.stdout[-2000:]
    assert (folder / "document.pdf").exists()
    problems = re.findall(r"^(?:Overfull \\hbox|Missing character).*$", result.stdout, re.M)
    assert not problems, problems
