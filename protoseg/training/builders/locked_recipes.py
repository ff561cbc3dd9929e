"""``python -m protoseg.training.builders.locked_recipes [--write]``: the table of locked recipes.

Compares ``protoseg/config/recipes/locked.json`` with the recipes of the installed mmseg. It prints
one line for each recipe that differs, and exits with 1 if there is one. ``--write`` writes the
table for the installed mmseg instead. Run ids do not cover the table: raise METHOD_VERSION in
``protoseg/config/schema.py`` if a new table has other values.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.recipes import locked
from protoseg.config.recipes.sections import SECTIONS, digest_values
from protoseg.training.builders.recipe_files import load_file, take_roles

PACKAGE = "onedl-mmsegmentation"
DIGITS = 10


def collect_table(names: Iterable[str] | None = None) -> dict[str, Any]:
    """Make the table from the installed mmseg.

    Args:
        names: of recipes; by default all.

    Raises:
        ValueError: two different values have the same short digest.
    """
    folder = find_folder()
    values: dict[str, Any] = {}
    recipes: dict[str, Any] = {}
    for name in list_recipes(folder) if names is None else names:
        entry: dict[str, Any] = {"files": locked.digest_files(folder / name)}
        for role, taken in take_roles(load_file(folder / name)).items():
            entry[role] = taken if isinstance(taken, str) else {}
            for section in () if isinstance(taken, str) else taken:
                digest = digest_values(taken[section])[:DIGITS]
                if values.setdefault(digest, taken[section]) != taken[section]:
                    raise ValueError(f"two values have the digest {digest}: raise DIGITS")
                entry[role][section] = digest
        recipes[name] = entry
    version = importlib.metadata.version(PACKAGE)
    return {"package": PACKAGE, "version": version, "recipes": recipes, "values": values}


def find_folder() -> Path:
    """The folder of mmseg's recipes.

    Raises:
        FileNotFoundError: mmseg is not installed.
    """
    folder = locked.find_configs_folder()
    if folder is None:
        raise FileNotFoundError("mmseg is not installed")
    return folder


def list_recipes(folder: Path) -> list[str]:
    """The recipes of mmseg, with the files that usually serve as bases."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))


def compare_tables(committed: dict[str, Any], installed: dict[str, Any]) -> list[str]:
    """One line for each recipe of the installed mmseg that differs from the committed table."""
    lines = []
    for name, entry in installed["recipes"].items():
        old = committed["recipes"].get(name)
        if old is None:
            lines.append(f"{name}: is not in the table")
            continue
        differing = [key for key in ("files", *SECTIONS) if old[key] != entry[key]]
        if differing:
            lines.append(f"{name}: differs in {', '.join(differing)}")
    return lines


def format_table(table: dict[str, Any]) -> bytes:
    """The bytes of the file: one line for each recipe and each value."""

    def format_lines(entries: dict[str, Any]) -> str:
        return ",\n".join(
            f"{json.dumps(k)}:{files.canonical_json(v).decode()}"
            for k, v in sorted(entries.items())
        )

    head = f'"package":{json.dumps(table["package"])},"version":{json.dumps(table["version"])}'
    recipes, values = format_lines(table["recipes"]), format_lines(table["values"])
    return f'{{{head},\n"recipes":{{\n{recipes}\n}},\n"values":{{\n{values}\n}}}}\n'.encode()


def write_table(table: dict[str, Any]) -> None:
    """Write the table, and its digest into the module that reads it."""
    content = format_table(table)
    files.write_bytes(locked.TABLE, content)
    module = Path(locked.__file__)
    digest = hashlib.sha256(content).hexdigest()
    text = re.sub(r'(?m)^TABLE_SHA256 = ".*"$', f'TABLE_SHA256 = "{digest}"', module.read_text())
    files.write_bytes(module, text.encode())


def main(arguments: list[str] | None = None) -> int:
    """Compare or write; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments not in ([], ["--write"]):
        print("usage: python -m protoseg.training.builders.locked_recipes [--write]")
        return 2
    installed = collect_table()
    if arguments:
        write_table(installed)
        print(f"{len(installed['recipes'])} recipes of {PACKAGE} {installed['version']} written")
        return 0
    lines = compare_tables(locked.read_table(), installed)
    for line in lines or [f"{len(installed['recipes'])} recipes: no difference"]:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
