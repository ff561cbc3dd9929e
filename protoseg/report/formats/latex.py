"""A table as LaTeX source, for a document that loads booktabs and graphicx."""

from __future__ import annotations

import itertools
import re
import unicodedata

from protoseg.report import wording
from protoseg.report.tables.model import Cell, Column, Footnote, Table

SPECIALS = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \\textquotedbl needs the T1 font encoding
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "✓": r"$\surd$",  # \checkmark would need amssymb
    "∞": r"$\infty$",
    "≈": r"$\approx$",
    "ς": r"$\varsigma$",
    "Δ": r"$\Delta$",
    "µ": r"$\mu$",
}
SPANNING = 60
"""Letters in a line beyond which a table takes both columns of text, to be readable."""
SMALLER = ((110, r"\scriptsize", "2pt"), (75, r"\footnotesize", "3pt"), (0, r"\small", "3pt"))
"""Letters in a line beyond which this type is taken, with this space between columns."""


def escape_latex(words: str) -> str:
    """Text as LaTeX prints it, Greek letters in math mode."""
    return "".join(SPECIALS.get(c) or _greek(c) or c for c in words)


def _greek(character: str) -> str:
    name = unicodedata.name(character, "")
    match = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if match is None or match[2] in ("OMICRON", "FINAL"):
        return ""
    letter = {"LAMDA": "lambda"}.get(match[2], match[2].lower())
    if match[1] == "SMALL":
        return f"$\\{letter}$"
    own = ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi")
    if letter in (*own, "omega"):
        return f"$\\{letter.capitalize()}$"
    latin = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I"}
    latin |= {"kappa": "K", "mu": "M", "nu": "N", "rho": "P", "tau": "T", "chi": "X"}
    return latin.get(letter, "")


def to_latex(table: Table) -> str:
    """A ``table`` environment: caption, label ``tab:NAME``, booktabs rules, footnotes below.

    It never runs over the column of text: where its type is still too large, all of it shrinks.
    """
    split = [_is_split(table, index) for index in range(len(table.header))]
    # With overrides it is another table, and goes by another label.
    label = re.sub(r"[^A-Za-z0-9:_.-]+", "-", " ".join((table.name, *table.overrides))).strip("-")
    command = " ".join(map(wording.clean_text, ("protoseg tables", table.name, *table.overrides)))
    length = _line_length(table)
    kind = "table*" if length > SPANNING else "table"  # alike where the text has one column
    caption = " ".join(f"{part.rstrip('.')}." for part in (table.title, table.caption) if part)
    lines = [
        f"% Made by `{command}`; changes made here are lost.",
        f"\\begin{{{kind}}}[t]",
        r"  \centering",
        *(f"  {line}" for line in _size(length)),
        r"  \setlength{\belowcaptionskip}{4pt}",
        f"  \\caption{{{escape_latex(caption)}}}",
        f"  \\label{{tab:{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{@{{}}{_alignment(table.header, split)}@{{}}}}",
        r"    \toprule",
        *(f"    {line}" for line in _header(table.header, split)),
        r"    \midrule",
    ]
    for row in table.rows:
        lines += [r"    \midrule"] * row.rule
        cells = [_cell(cell, halves) for cell, halves in zip(row.cells, split, strict=True)]
        lines.append(f"    {_row(cells)}")
    lines += [
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"  \par\smallskip",
        r"  \begin{minipage}{\linewidth}",
        r"    \footnotesize",
        *(f"    {_footnote(footnote)}" for footnote in table.footnotes),
        r"  \end{minipage}",
        f"\\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    # The rule or the line's end before it would take a bracket or a star as its own.
    start = "{}" if cells[0].startswith(("[", "*")) else ""
    return f"{start}{' & '.join(cells)} \\\\"


def _is_split(table: Table, index: int) -> bool:
    """Whether a column is two for LaTeX: the value to the right, what follows it to the left."""
    if table.header[index].kind == "verdict":  # words, with nothing to line up
        return False
    return any(r.cells[index].std_text or r.cells[index].note for r in table.rows)


def _size(length: int) -> tuple[str, str]:
    """A long line in a narrow column of text: smaller type before all of it shrinks."""
    size, space = next((size, space) for least, size, space in SMALLER if length > least)
    return size, rf"\setlength{{\tabcolsep}}{{{space}}}"


def _line_length(table: Table) -> int:
    lines = (
        [column.title for column in table.header],
        *([c.plain for c in r.cells] for r in table.rows),
    )
    return sum(max(map(len, cells)) for cells in zip(*lines, strict=True))


def _alignment(header: tuple[Column, ...], split: list[bool]) -> str:
    kinds = {"label": "l", "verdict": "l"}
    return "".join(
        r"r@{}l" if halves else kinds.get(column.kind, "r")
        for column, halves in zip(header, split, strict=True)
    )


def _header(header: tuple[Column, ...], split: list[bool]) -> list[str]:
    above, rules, position = [], [], 1
    for group, members in itertools.groupby(
        zip(header, split, strict=True), key=lambda pair: (pair[0].group, pair[0].values)
    ):
        width = sum(2 if halves else 1 for _, halves in members)
        if group[0]:
            above.append(f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(group[0])}}}")
            rules.append(f"\\cmidrule(lr){{{position}-{position + width - 1}}}")
        else:
            above += [""] * width
        position += width
    titles = []
    for column, halves in zip(header, split, strict=True):
        title = escape_latex(column.title) + _mark(column.mark)
        place = "l" if column.kind == "label" else "c"
        width = 2 if halves else 1
        titles.append(title if place == "l" else f"\\multicolumn{{{width}}}{{c}}{{{title}}}")
    lines = [f"{' & '.join(above)} \\\\", " ".join(rules)] if rules else []
    return [*lines, _row(titles)]


def _cell(cell: Cell, split: bool) -> str:
    value = escape_latex(cell.text)
    if cell.kind == "status":
        words = (f"\\textit{{{value}}}" if value else "") + _mark(cell.mark)
        return f"\\multicolumn{{2}}{{c}}{{{words}}}" if split else words
    if cell.bold:
        value = f"\\textbf{{{value}}}"
    rest = f"$\\pm${cell.std_text}" if cell.std_text else ""
    if cell.note:
        rest = f"{rest} ({escape_latex(cell.note)})".strip()
    rest = f"{{\\scriptsize{{}}{rest}}}" if rest else ""
    if split:
        return f"{value} & {rest}{_mark(cell.mark)}"
    return " ".join(filter(None, (value, rest))) + _mark(cell.mark)


def _footnote(footnote: Footnote) -> str:
    # Sentences run on; what a letter refers to begins a line.
    start = f"\\par{_mark(footnote.mark)} " if footnote.mark else ""
    return start + escape_latex(footnote.text)


def _mark(mark: str) -> str:
    return f"\\textsuperscript{{{mark}}}" if mark else ""
