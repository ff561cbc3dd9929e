"""LaTeX source for letters and signs, for pdflatex, xelatex and lualatex without further packages.

Covered are Latin and Greek letters with their accents, superscripts, subscripts and common signs.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from protoseg.errors import UsageError

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
    "·": r"$\cdot$",
}
"""Signs of the tables, and those with a meaning in LaTeX."""

TEXT = {
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "ȷ": r"\j{}",
    "å": r"\aa{}",
    "Å": r"\AA{}",
    "đ": r"{\ooalign{d\cr\hidewidth\raise.65ex\hbox{-}\cr}}",
    "Đ": r"{\ooalign{D\cr\raise.05ex\hbox{-}\hidewidth\cr}}",
    "‚": ",",
    "„": ",,",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "«": r"$\ll$",
    "»": r"$\gg$",
    "‹": "$<$",
    "›": "$>$",
    "¡": "!`",
    "¿": "?`",
    "…": r"\dots{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "‐": "-",
    "‑": "-",
    "‒": "--",
    "―": "---",
    "•": r"$\bullet$",
    "●": r"$\bullet$",
    "○": r"$\circ$",
    "°": r"$^{\circ}$",
    "′": "$'$",
    "″": "$''$",
    "€": r"\texteuro{}",
    "\u00a0": "~",
    "\u2009": r"\,",
    "\u202f": r"\,",
    "®": r"\textsuperscript{R}",
    "™": r"\textsuperscript{TM}",
}
"""Letters and signs of text."""

MATH = {
    "≠": "neq",
    "∈": "in",
    "∋": "ni",
    "√": "surd",
    "∑": "sum",
    "∏": "prod",
    "∫": "int",
    "⇒": "Rightarrow",
    "⇐": "Leftarrow",
    "⇔": "Leftrightarrow",
    "←": "leftarrow",
    "↔": "leftrightarrow",
    "↦": "mapsto",
    "⇑": "Uparrow",
    "⇓": "Downarrow",
    "∀": "forall",
    "∃": "exists",
    "∅": "emptyset",
    "∂": "partial",
    "∇": "nabla",
    "∝": "propto",
    "≡": "equiv",
    "∼": "sim",
    "≃": "simeq",
    "≅": "cong",
    "∩": "cap",
    "∪": "cup",
    "⊂": "subset",
    "⊆": "subseteq",
    "⊃": "supset",
    "⊇": "supseteq",
    "∧": "wedge",
    "∨": "vee",
    "¬": "neg",
    "⊕": "oplus",
    "⊗": "otimes",
    "⊙": "odot",
    "⊥": "perp",
    "∥": "parallel",
    "‖": "Vert",
    "⟨": "langle",
    "⟩": "rangle",
    "⌈": "lceil",
    "⌉": "rceil",
    "⌊": "lfloor",
    "⌋": "rfloor",
    "ℓ": "ell",
    "☆": "star",
    "✗": "times",
    "✘": "times",
    "✔": "surd",
    "÷": "div",
    "∗": "ast",
    "∘": "circ",
    "◦": "circ",
    "⋅": "cdot",
    "⋯": "cdots",
    "≪": "ll",
    "≫": "gg",
    "△": "triangle",
    "◇": "diamond",
    "ϵ": "epsilon",
    "ϑ": "vartheta",
    "ϕ": "phi",
    "ϱ": "varrho",
    "ϖ": "varpi",
    "ℏ": "hbar",
    "ℵ": "aleph",
    "∠": "angle",
    "∓": "mp",
}
"""Signs of mathematics -> their commands."""

ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0331": "b",
    "\u0326": "textcommabelow",
}
"""Combining marks -> the commands of accents in text."""

MATH_ACCENTS = {"\u0301": "acute", "\u0300": "grave", "\u0308": "ddot"}
"""Combining marks of Greek letters -> the commands of accents in formulas."""

OGONEK = "\u0328"
CAPITALS = (
    *("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"),
)
"""Greek capitals that differ from all Latin letters."""
LATIN = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I"}
LATIN |= {"kappa": "K", "mu": "M", "nu": "N", "rho": "P", "tau": "T", "chi": "X", "omicron": "O"}
"""Greek capitals that look like a Latin letter."""


def escape_latex(text: str) -> str:
    """Escape text for LaTeX, with Greek letters and signs in math mode.

    Raises:
        UsageError: a letter that LaTeX cannot show without further packages.
    """
    composed = unicodedata.normalize("NFC", text)
    return "".join(_escape_letter(letter, composed) for letter in composed)


def _escape_letter(letter: str, text: str) -> str:
    source = _find_source(letter)
    if source is None:
        name = unicodedata.name(letter, f"U+{ord(letter):04X}")
        raise UsageError(
            f"LaTeX cannot show '{letter}' ({name}) in '{text}' without further packages. "
            "Replace it in the names, labels or texts of the matrix."
        )
    return source


@functools.cache
def _find_source(letter: str) -> str | None:
    """The LaTeX source of a letter; None if there is none."""
    if letter in SPECIALS:
        return SPECIALS[letter]
    if letter.isascii():
        return letter
    if letter in TEXT:
        return TEXT[letter]
    if letter in MATH:
        return f"$\\{MATH[letter]}$"
    return _find_greek(letter) or _find_compound(letter)


def _find_compound(letter: str) -> str | None:
    """A letter with an accent, a superscript, a subscript or a fraction."""
    how, _, codes = unicodedata.decomposition(letter).rpartition(">")
    parts = [chr(int(code, 16)) for code in codes.split()]
    if not parts:
        return None
    match how.strip("<"):
        case "super" | "sub" as position:
            content = "".join(_find_math(part) or "\0" for part in parts)
            return (
                None if "\0" in content else f"${'^' if position == 'super' else '_'}{{{content}}}$"
            )
        case "fraction":
            top, _, bottom = "".join(parts).partition("\u2044")
            return f"$\\frac{{{top}}}{{{bottom}}}$" if bottom else None
        case "":
            return _find_accented(*parts) if len(parts) == 2 else _find_source(parts[0])
    return None


def _find_math(letter: str) -> str | None:
    """The source of a letter inside a formula."""
    if letter == "−":
        return "-"
    if letter.isalpha() and letter.isascii():
        return f"\\mathrm{{{letter}}}"
    if letter.isascii() and letter not in SPECIALS:
        return letter
    source = _find_source(letter)
    return source[1:-1] if source and re.fullmatch(r"\$[^$]+\$", source) else None


def _find_accented(base: str, mark: str) -> str | None:
    source = _find_source(base)
    if source is None:
        return None
    if source.startswith("$"):
        accent = MATH_ACCENTS.get(mark)
        return f"$\\{accent}{{{source[1:-1]}}}$" if accent else None
    if mark == OGONEK:  # \\k needs the T1 font encoding
        return f"{{\\ooalign{{{source}\\cr\\hidewidth\\raise-.9ex\\hbox{{`}}\\cr}}}}"
    if mark not in ACCENTS:
        return None
    above = mark not in "\u0323\u0327\u0331\u0326"
    dotless = {"i": r"\i{}", "j": r"\j{}"} if above else {}
    return f"\\{ACCENTS[mark]}{{{dotless.get(source, source)}}}"


def _find_greek(letter: str) -> str | None:
    name = unicodedata.name(letter, "")
    match = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if match is None or match[2] == "FINAL":
        return None
    word = {"LAMDA": "lambda"}.get(match[2], match[2].lower())
    if match[1] == "CAPITAL":
        return f"$\\{word.capitalize()}$" if word in CAPITALS else LATIN.get(word)
    if word == "omicron":
        return "o"
    return f"$\\{word}$" if word in (*CAPITALS, *LATIN) else None
