"""Class names in the files of an unknown folder: a list, or a table of names and colours."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

Color = tuple[int, int, int]

NAME_FIRST = re.compile(r"\s*(\D.*?)[\s,;:]+(\d{1,3})[\s,;:]+(\d{1,3})[\s,;:]+(\d{1,3})\s*")
NAME_LAST = re.compile(r"\s*(\d{1,3})[\s,;:]+(\d{1,3})[\s,;:]+(\d{1,3})[\s,;:]+(\D.*?)\s*")
LIST_WORDS = ("class", "label", "name", "categor", "color")
LONGEST = 2000
"""Lines or bytes times 100 of a file of names; longer files hold something else."""


@dataclass(frozen=True)
class ClassNames:
    """The names in one file."""

    file: str
    names: tuple[str, ...] = ()
    """In the order of the label values."""
    colors: tuple[tuple[Color, str], ...] = ()


def find_class_names(root: Path, files: list[str]) -> list[ClassNames]:
    """The files whose content looks like class names, in the order of their paths.

    Args:
        root: the data set.
        files: relative paths of its text and JSON files.
    """
    results = []
    for name in sorted(files):
        path = root / name
        if path.stat().st_size > 100 * LONGEST:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        result = _read_json(name, text) if name.endswith(".json") else _read_text(name, text)
        if result is not None:
            results.append(result)
    return results


def _read_json(name: str, text: str) -> ClassNames | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value):
        return ClassNames(name, names=tuple(value))
    return None


def _read_text(name: str, text: str) -> ClassNames | None:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    colors = [color for line in lines if (color := _read_color(line)) is not None]
    if len(colors) > 1 and len(colors) >= len(lines) - 1:  # the first line may be a heading
        return ClassNames(name, colors=tuple(colors))
    is_list = any(word in Path(name).name.lower() for word in LIST_WORDS)
    if is_list and 1 < len(lines) <= LONGEST and not any("/" in line for line in lines):
        return ClassNames(name, names=tuple(line.strip() for line in lines))
    return None


def _read_color(line: str) -> tuple[Color, str] | None:
    if match := NAME_LAST.fullmatch(line):
        *numbers, label = match.groups()
    elif match := NAME_FIRST.fullmatch(line):
        label, *numbers = match.groups()
    else:
        return None
    red, green, blue = map(int, numbers)
    return ((red, green, blue), label) if max(red, green, blue) < 256 else None
