"""Reads the options of config groups one by one, with the result that Hydra would give.

For each combination of options, Hydra composes about thirty files, most of them from Hydra itself.
That takes 0.15 s, and a matrix has many combinations. An option that sets only values of its group
does not depend on the other options, so it is read once. `OptionReader` returns None for everything
else (packages, overrides of other groups, a file without schema, an error): Hydra then composes
the run and reports the error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.texts.yaml_text import read_nodes, restore_texts

SELF = "_self_"
NAME = re.compile(r"\w+")
"""Name of a file in the same folder, without package, override, keyword or interpolation."""


class OptionReader:
    """Reads the options of folders of experiments, each once.

    Args:
        folders: with ``run.yaml`` and one folder per group.
    """

    def __init__(self, folders: ConfigFolders) -> None:
        self.folders = folders
        self._options: dict[tuple[str, str], dict[str, Any] | None] = {}

    def read_options(self, chosen: Mapping[str, str]) -> dict[str, Any] | None:
        """Read the values of the chosen options.

        Args:
            chosen: group -> option.

        Returns:
            Group -> values, with unresolved interpolations. None if only Hydra can compose them.
        """
        defaults = self._defaults
        if defaults is None or not chosen.keys() <= defaults.keys():
            return None
        # The defaults that the chosen options replace or join must not set other groups either.
        if any(self._read_once(*item) is None for item in (*defaults.items(), *chosen.items())):
            return None
        return {group: self._read_once(group, name) for group, name in chosen.items()}

    @functools.cached_property
    def _defaults(self) -> dict[str, str] | None:
        """Group -> its default option in ``run.yaml``; None if that file has other contents."""
        content = _read_yaml(self.folders.find("run.yaml"))
        if content is None or any(key in config_groups() for key in content):
            return None
        chosen: dict[str, str] = {}
        for entry in content.get("defaults") or ():
            if isinstance(entry, dict) and len(entry) == 1:
                ((group, name),) = entry.items()
                if group in config_groups() and isinstance(name, str) and NAME.fullmatch(name):
                    chosen[group] = name
                    continue
            if entry not in ("run_schema", SELF):
                return None
        return chosen

    def _read_once(self, group: str, name: str) -> dict[str, Any] | None:
        if (group, name) not in self._options:
            self._options[group, name] = _read_option(self.folders, group, name)
        return self._options[group, name]


def _read_option(folders: ConfigFolders, group: str, name: str) -> dict[str, Any] | None:
    try:
        merged, *configs = _list_configs(folders, group, name, ())
        for config in configs:
            merged.merge_with(config)
        values = OmegaConf.to_container(merged, resolve=False, throw_on_missing=False)
    except (_NeedsHydraError, ConfigLoadError, OmegaConfBaseException):
        return None
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None


class _NeedsHydraError(Exception):
    """The file has contents that only Hydra can compose."""


def _list_configs(
    folders: ConfigFolders, group: str, name: str, parents: tuple[str, ...]
) -> Iterator[DictConfig]:
    """Yield the schemas and files to merge, in the order of the ``defaults``."""
    content = _read_yaml(folders.find(f"{group}/{name}.yaml"), config_groups()[group])
    if content is None or name in parents:
        raise _NeedsHydraError
    defaults = content.pop("defaults", None)
    # A schema must come first: it checks and completes the values merged into it.
    if not isinstance(defaults, list) or defaults.count(SELF) != 1 or defaults[0] == SELF:
        raise _NeedsHydraError
    for entry in defaults:
        if not isinstance(entry, str) or not NAME.fullmatch(entry):
            raise _NeedsHydraError
        is_schema = entry.endswith("schema")
        if is_schema == folders.find(f"{group}/{entry}.yaml").exists() and entry != SELF:
            raise _NeedsHydraError
        if entry == SELF:
            yield OmegaConf.create(content)
        elif is_schema:
            yield ConfigStore.instance().load(f"{group}/{entry}.yaml").node
        else:
            yield from _list_configs(folders, group, entry, (*parents, name))


def _read_yaml(path: Path, cls: Any = None) -> dict[str, Any] | None:
    """Read a file as plain data; None if it has a package header or is not a readable mapping.

    The texts of the fields of ``cls`` are as typed.
    """
    try:
        if "@package" in path.read_text(encoding="utf-8"):
            return None
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        content = restore_texts(content, read_nodes(path), cls)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return None
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else None
