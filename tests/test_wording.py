"""The words of code, docs and messages: plain technical English (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path
    for folder in ("protoseg", "benchmarks", "slurm", "tests", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PAGES += sorted([ROOT / "results" / "README.md", ROOT / "slurm" / "README.md"])
CONFIGS = sorted([*(ROOT / "experiments").rglob("*.yaml"), *(ROOT / "slurm").glob("*.yaml")])

PHRASES = (
    *("gone on with", "is no news", "is a wish", "drawn for the occasion", "as srun says"),
    *("closes some doors", "leave it away", "not a word", "would be a lie", "learned besides"),
    *("are no matter", "one is meant", "by the word of", "looked at, not kept", "say what came of"),
    *("for a reason that passes", "can not", "scores divided by 0.1 end", "points behind"),
    *("whoever", "of its own", "of his own", "of their own", "is meant", "are meant"),
)
"""Phrases that a reader has to read twice."""
WORDS = ("says", "said", "knows", "stands", "lies")
"""Verbs of people, in sentences about code."""
FUNCTIONS = {"settle", "judge", "tell", "hear", "read", "take"}
VARIABLES = {"found", "place", "kind", "words", "given", "said", "mine", "there"}
ALLOWED = ("can not tell",)
"""A verdict in committed tables and in JSON."""
BANNED = re.compile(
    "|".join([*map(re.escape, PHRASES), *(rf"\b{word}\b" for word in WORDS)]), re.IGNORECASE
)


def sentences_of_code(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each comment and string."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def sentences_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what people read in a file."""
    if path.suffix == ".py":
        yield from sentences_of_code(path)
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix == ".md" or "#" in line:
            yield number, line


def test_no_sentence_has_a_banned_phrase() -> None:
    problems = []
    for path in [*CODE, *PAGES, *CONFIGS]:
        for line, text in sentences_of(path):
            # A phrase may go over the end of a line.
            line_text = re.sub(r"\s*\n\s*", " ", text)
            for phrase in ALLOWED:
                line_text = re.sub(phrase, "", line_text, flags=re.IGNORECASE)
            for match in BANNED.finditer(line_text):
                problems.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert not problems, "\n".join([f"{len(problems)} banned phrases", *problems])


def test_a_function_is_a_verb_and_a_noun() -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.lstrip("_") in FUNCTIONS
    ]
    assert not problems, "\n".join(problems)


def variables_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each variable and parameter; the fields of classes are not among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.lineno, inner.id


def test_a_variable_says_what_it_holds() -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in CODE
        for line, name in variables_of(ast.parse(path.read_text(encoding="utf-8")))
        if name in VARIABLES
    ]
    assert not problems, "\n".join([f"{len(problems)} variables", *problems])
