"""Finds the file that sets each value of a config option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from protoseg.config.hydra.fast_compose import SELF
from protoseg.config.hydra.folders import ConfigFolders


def find_origins(folders: ConfigFolders, group: str, name: str) -> dict[str, Path]:
    """Find where the values of an option come from.

    Args:
        folders: folders of the config files.
        group: config group; empty for ``run``.
        name: the option.

    Returns:
        Key -> file that sets it. A missing key has the default of its dataclass.
    """
    origins: dict[str, Path] = {}
    for path, keys in _list_files(folders, group, name, ()):
        origins.update(dict.fromkeys(keys, path))
    return origins


def _list_files(
    folders: ConfigFolders, group: str, name: str, parents: tuple[str, ...]
) -> Iterator[tuple[Path, list[str]]]:
    """Yield the files of an option and their keys, in the order in which Hydra merges them."""
    path = folders.find(f"{group}/{name}.yaml" if group else f"{name}.yaml")
    if name in parents or not path.is_file():
        return
    content: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    own = (path, [str(key) for key in content if key != "defaults"])
    defaults = content.get("defaults") or [SELF]
    for entry in defaults:
        if entry == SELF:
            yield own
        elif isinstance(entry, str) and not entry.endswith("schema"):
            yield from _list_files(folders, group, entry, (*parents, name))
    if SELF not in defaults:
        yield own
