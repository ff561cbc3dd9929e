"""The recipes of the locked version of mmseg: what runs take from them, in ``locked.json``.

A spec with the name of one of these recipes has these values, whatever mmseg is installed, and its
identity holds only the name. ``python -m protoseg.training.builders.locked_recipes`` compares the
file with the installed mmseg; with ``--write`` it writes the file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from protoseg.config.recipes.sections import NotTakenError
from protoseg.errors import ProtosegError

TABLE = Path(__file__).with_name("locked.json")
TABLE_SHA256 = "dc03ffb6085b6290715014501b85f0a9add42f409bc255d6d9ca9543cf494489"
"""SHA-256 of the file: an edit of it would change results that keep their run id."""
BASE = "_base_"


@functools.cache
def read_table() -> dict[str, Any]:
    """Read the table of the locked recipes.

    ``version`` is that of mmseg. ``recipes`` has for each recipe ``files``, the result of
    `digest_files`, and for each role the digests of its sections, or the reason why it cannot have
    the role. ``values`` has the values of a section for each digest.

    Raises:
        ProtosegError: the file was edited.
    """
    content = TABLE.read_bytes()
    if hashlib.sha256(content).hexdigest() != TABLE_SHA256:
        raise ProtosegError(
            f"{TABLE}: was edited. Restore it from git, or write it again with "
            "'python -m protoseg.training.builders.locked_recipes --write'."
        )
    table: dict[str, Any] = json.loads(content)
    return table


def is_locked(name: str) -> bool:
    """Whether the locked mmseg ships a recipe."""
    return name in read_table()["recipes"]


def read_sections(role: str, name: str) -> dict[str, Any]:
    """What a run takes from a locked recipe; see `protoseg.config.recipes.sections.take_values`.

    The values are those of the table and must not be changed.

    Raises:
        NotTakenError: the recipe cannot have this role.
        KeyError: the locked mmseg does not ship the recipe.
    """
    table = read_table()
    entry = table["recipes"][name][role]
    if isinstance(entry, str):
        raise NotTakenError(entry)
    return {section: table["values"][digest] for section, digest in entry.items()}


@functools.cache
def find_configs_folder() -> Path | None:
    """Find the folder of mmseg's recipes without importing mmseg; None if it is not installed."""
    spec = importlib.util.find_spec("mmseg")
    for location in (spec and spec.submodule_search_locations) or ():
        return Path(location) / ".mim" / "configs"
    return None


def digest_files(recipe: Path) -> str | None:
    """Compute a digest of a recipe of mmseg and of all its bases, without running them.

    Returns:
        16 hex digits. None if a file is missing, or names its bases by an expression.
    """
    digest = hashlib.sha256()
    try:
        for content in _read_files(recipe):
            digest.update(hashlib.sha256(content).digest())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return digest.hexdigest()[:16]


def _read_files(recipe: Path) -> list[bytes]:
    """The contents of a recipe and of its bases, each after the files it is based on."""
    content = recipe.read_bytes()
    bases: Any = []
    for node in ast.parse(content).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == BASE:
            bases = ast.literal_eval(node.value)
    contents: list[bytes] = []
    for base in [bases] if isinstance(bases, str) else bases:
        contents += _read_files(recipe.parent / base)
    return [*contents, content]
