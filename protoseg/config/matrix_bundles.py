"""A bundle: a name for several matrices, e.g. all tables of a paper.

    title: The tables of the paper
    matrices: [paper_table1, paper_table2]

It lies among the matrices, as ``experiments/matrices/NAME.yaml``, and can be named wherever
several of them can, by its name or as a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from protoseg.errors import UsageError, unknown

KEYS = ("title", "matrices")
MARK = re.compile(r"^matrices\s*:", re.MULTILINE)


def is_bundle(path: Path) -> bool:
    """Whether a file names matrices rather than being one."""
    try:
        return MARK.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it as a matrix says what is wrong


def sorted_names(experiments: Path) -> tuple[list[str], list[str]]:
    """The matrices and the bundles of a folder of experiments, each sorted."""
    paths = sorted((experiments / "matrices").glob("*.yaml"))
    bundles = [path.stem for path in paths if is_bundle(path)]
    return [path.stem for path in paths if path.stem not in bundles], bundles


def expanded(experiments: Path, names: Iterable[str]) -> list[str]:
    """Names with each bundle replaced by its matrices; a matrix that two of them name comes once.

    Raises:
        UsageError: a bundle that is not as it should be.
    """
    matrices, bundles = sorted_names(experiments)
    found: list[str] = []
    for name in names:
        file = name.endswith((".yaml", ".yml"))
        path = Path(name) if file else experiments / "matrices" / f"{name}.yaml"
        members = _members(path, matrices, bundles) if is_bundle(path) else [name]
        found += [member for member in members if member not in found]
    return found


def _members(path: Path, matrices: list[str], bundles: list[str]) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not a readable YAML file: {reason}") from error
    for key in content:
        if key not in KEYS:
            raise UsageError(unknown("key", str(key), f"{path.name} (names matrices)", KEYS))
    members = content["matrices"]
    if not isinstance(members, list) or not members:
        raise UsageError(f"{path.name}: matrices: expected a list of names, found {members!r}.")
    for member in members:
        if member in bundles:
            raise UsageError(
                f"{path.name}: matrices: '{member}' is a bundle too; name its matrices instead."
            )
        if member not in matrices:
            raise UsageError(unknown("matrix", str(member), f"{path.name}: matrices", matrices))
    if len(set(members)) < len(members):
        raise UsageError(f"{path.name}: matrices: a matrix is named twice.")
    return [str(member) for member in members]
