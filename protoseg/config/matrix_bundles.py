"""Expands bundles. A bundle is a name for several matrices, e.g. all tables of a paper.

    title: The tables of the paper
    matrices: [paper_table1, paper_table2]

A bundle is a file ``experiments/matrices/NAME.yaml``. Its name or its path is accepted wherever
several matrices are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from protoseg.config.hydra.folders import ConfigFolders
from protoseg.errors import UsageError, describe_unknown_name

KEYS = ("title", "matrices")
MATRICES_KEY = re.compile(r"^matrices\s*:", re.MULTILINE)


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle, and not a matrix."""
    try:
        return MATRICES_KEY.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False  # `load_matrix` reports why the file is not readable


def list_matrices_and_bundles(experiments: ConfigFolders) -> tuple[list[str], list[str]]:
    """List the matrices and the bundles of the folders of experiments, both sorted."""
    files = experiments.list_files("matrices")
    bundles = [name for name, path in files.items() if is_bundle(path)]
    return [name for name in files if name not in bundles], bundles


def expand_bundles(experiments: ConfigFolders, names: Iterable[str]) -> list[str]:
    """Replace each bundle by its matrices; duplicates are dropped.

    Args:
        experiments: folders with ``matrices/``.
        names: names or paths of matrices and bundles.

    Raises:
        UsageError: an invalid bundle.
    """
    matrices, bundles = list_matrices_and_bundles(experiments)
    all_members: list[str] = []
    for name in names:
        is_path = name.endswith((".yaml", ".yml"))
        path = Path(name) if is_path else experiments.find(f"matrices/{name}.yaml")
        members = _read_members(path, matrices, bundles) if is_bundle(path) else [name]
        all_members += [member for member in members if member not in all_members]
    return all_members


def _read_members(path: Path, matrices: list[str], bundles: list[str]) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not a readable YAML file: {reason}") from error
    for key in content:
        if key not in KEYS:
            raise UsageError(
                describe_unknown_name("key", str(key), f"{path.name} (a bundle)", KEYS)
            )
    members = content["matrices"]
    if not isinstance(members, list) or not members:
        raise UsageError(f"{path.name}: matrices: expected a list of names, found {members!r}.")
    for member in members:
        if member in bundles:
            raise UsageError(
                f"{path.name}: matrices: '{member}' is a bundle too; name its matrices instead."
            )
        if member not in matrices:
            raise UsageError(
                describe_unknown_name("matrix", str(member), f"{path.name}: matrices", matrices)
            )
    if len(set(members)) < len(members):
        raise UsageError(f"{path.name}: matrices: a matrix is named twice; remove one.")
    return [str(member) for member in members]


def find_matrix_file(folders: ConfigFolders, name: str) -> Path:
    """Find the file of a matrix.

    Args:
        folders: with ``matrices/NAME.yaml``.
        name: name of such a file, or path of a YAML file.

    Raises:
        UsageError: no such file; or a bundle.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name}: no such matrix file.")
        return path
    names, bundles = list_matrices_and_bundles(folders)
    if name in bundles:
        members = ", ".join(expand_bundles(folders, [name]))
        raise UsageError(f"{name} is a bundle of several matrices; name one of them: {members}.")
    if name not in names:
        raise UsageError(
            describe_unknown_name("matrix", name, "experiments/matrices", [*names, *bundles])
        )
    return folders.find(f"matrices/{name}.yaml")
