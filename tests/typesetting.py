"""Sets LaTeX sources of tables in a document, as a paper would."""

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
    """Compile; nothing may be wrong, unknown to the fonts, or wider than the text."""
    # More tables than LaTeX lets float at once: each page is set before the next table.
    body = "\n\\clearpage\n".join(sources)
    (folder / "document.tex").write_text(
        "\\documentclass[" + ("twocolumn" if columns == 2 else "onecolumn") + "]{article}"
        "\\usepackage{booktabs,graphicx}\\begin{document}\n" + body + "\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "document.pdf").exists()
    wrong = re.findall(r"^(?:Overfull \\hbox|Missing character).*$", done.stdout, re.M)
    assert not wrong, wrong
