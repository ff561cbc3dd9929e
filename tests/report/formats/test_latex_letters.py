"""Letters and signs compile in plain documents; other letters are refused by name."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.errors import UsageError
from protoseg.report.formats.latex_letters import MATH, SPECIALS, TEXT, escape_latex

LATIN = [chr(c) for c in range(0xC0, 0x180) if unicodedata.category(chr(c)).startswith("L")]
WITHOUT_FORM = "ÐÞðþĦħĸĿŀŉŊŋŦŧſĲĳ"
"""Latin letters that plain LaTeX cannot show."""
GREEK = [
    chr(c) for c in (*range(0x391, 0x3A2), *range(0x3A3, 0x3CF)) if unicodedata.name(chr(c), "")
]
SCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₖₙᵀªº½¼¾⅓"
CASES = "₀₁₂ₖⁿ·≠∈√∑⇒✗✔☆●αβ≤≥±×✓é½²„«đ"
COVERED = sorted({*LATIN, *GREEK, *SCRIPTS, *CASES, *MATH, *TEXT, *SPECIALS} - {*WITHOUT_FORM})
REFUSED = "Ж中😀★ðþﬁℝ"


@pytest.mark.parametrize("program", ["pdflatex", "lualatex", "xelatex"])
def test_every_covered_letter_compiles(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    body = "\n\n".join(f"a{escape_latex(letter)}b" for letter in COVERED)
    (tmp_path / "document.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{body}\n\\textbf{{{escape_latex('κ₂ é ą')}}}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [program, "-interaction=nonstopmode", "document.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE,
        check=False,
    )
    log = (tmp_path / "document.log").read_text(encoding="utf-8", errors="replace")
    assert not re.findall(r"^(?:!.*|Missing character.*)$", log, re.M)
    assert result.returncode == 0, result.stdout[-2000:]


def test_letters_have_one_source_each() -> None:
    assert escape_latex("é ñ ç ő ǐ ą ß") == (
        r"\'{e} \~{n} \c{c} \H{o} \v{\i{}} {\ooalign{a\cr\hidewidth\raise-.9ex\hbox{`}\cr}} \ss{}"
    )
    assert escape_latex("κ₁₀ ≠ β²") == r"$\kappa$$_{1}$$_{0}$ $\neq$ $\beta$$^{2}$"
    assert escape_latex("ά Έ") == r"$\acute{\alpha}$ \'{E}"
    assert escape_latex("e\u0301") == escape_latex("é"), "both Unicode forms give one source"
    assert escape_latex("λ × 5% · ±") == r"$\lambda$ $\times$ 5\% $\cdot$ $\pm$"


@pytest.mark.parametrize("letter", REFUSED)
def test_other_letters_are_refused_by_name(letter: str) -> None:
    with pytest.raises(UsageError) as error:
        escape_latex(f"a{letter}b")
    name = unicodedata.name(letter)
    assert f"LaTeX cannot show '{letter}' ({name}) in 'a{letter}b'" in str(error.value)
