"""docs/architecture.md agrees with the code."""

from __future__ import annotations

import re
from pathlib import Path

import test_house as house

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
GROUND = {"errors", "files", "paths", "deprecation"}
SHIMS = {"spec", "dispatch"}
"""Folders of old import paths, for one release."""


def test_the_diagram_shows_the_imports_between_rooms() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", PAGE, re.MULTILINE))
    rooms = set(re.findall(r"^ +(\w+)\[", PAGE, re.MULTILINE))
    imported = {
        (house.part(module), house.owner(name).removeprefix("protoseg."))
        for module in house.MODULES
        for name in house.imports(module)
        if house.owner(name).startswith("protoseg.")
    }
    parts = {part for edge in imported for part in edge} - GROUND - SHIMS
    assert rooms == parts
    assert drawn == {
        (source, target)
        for source, target in imported
        if source != target and source != "cli" and {source, target} <= parts
    }


def test_each_path_of_the_page_exists() -> None:
    rows = re.findall(r"^\| [^|]+ \| (`protoseg/.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 20
    for row in rows:
        for path in re.findall(r"`(protoseg/[^`]+)`", row):
            assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        assert (ROOT / path).is_file() or (ROOT / "protoseg" / path).is_file(), path
