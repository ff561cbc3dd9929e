"""One option of a config group by itself, as Hydra would merge it.

Hydra composes some thirty files, most of them its own, for each combination of options: 0.15 s,
and a matrix has many combinations. Where an option keeps to its group, what it means does not
depend on the others, and each is read once. Whatever is not as plain as that (packages, overrides
of other groups, a file without schema, an error) is left to Hydra, which also has the words for it.
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

from protoseg.config.hydra_schemas import groups

SELF = "_self_"
NAME = re.compile(r"\w+")
"""Of a file in the same folder, without package, override, keyword or interpolation."""


class Options:
    """Reads the options of a folder of experiments, each once.

    Args:
        experiments: folder with ``run.yaml`` and one folder a group.
    """

    def __init__(self, experiments: Path) -> None:
        self.experiments = experiments
        self._found: dict[tuple[str, str], dict[str, Any] | None] = {}

    def values(self, chosen: Mapping[str, str]) -> dict[str, Any] | None:
        """Group -> the values of its option, interpolations as they are; None: Hydra is needed."""
        defaults = self._defaults
        if defaults is None or not chosen.keys() <= defaults.keys():
            return None
        # The options that the chosen ones replace, or stand beside, must keep to themselves too.
        if any(self._option(*item) is None for item in (*defaults.items(), *chosen.items())):
            return None
        return {group: self._option(group, name) for group, name in chosen.items()}

    @functools.cached_property
    def _defaults(self) -> dict[str, str] | None:
        """Group -> the option that ``run.yaml`` names for it; None where that file does more."""
        content = _read(self.experiments / "run.yaml")
        if content is None or any(key in groups() for key in content):
            return None
        chosen: dict[str, str] = {}
        for entry in content.get("defaults") or ():
            if isinstance(entry, dict) and len(entry) == 1:
                ((group, name),) = entry.items()
                if group in groups() and isinstance(name, str) and NAME.fullmatch(name):
                    chosen[group] = name
                    continue
            if entry not in ("run_schema", SELF):
                return None
        return chosen

    def _option(self, group: str, name: str) -> dict[str, Any] | None:
        if (group, name) not in self._found:
            self._found[group, name] = _option(self.experiments / group, group, name)
        return self._found[group, name]


def _option(folder: Path, group: str, name: str) -> dict[str, Any] | None:
    try:
        merged, *parts = _parts(folder, group, name, ())
        for part in parts:
            merged.merge_with(part)
        found = OmegaConf.to_container(merged, resolve=False, throw_on_missing=False)
    except (_NotPlainError, ConfigLoadError, OmegaConfBaseException):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


class _NotPlainError(Exception):
    """Something that only Hydra can read."""


def _parts(folder: Path, group: str, name: str, above: tuple[str, ...]) -> Iterator[DictConfig]:
    """What is merged, in order: schemas and files, as the lists of ``defaults`` name them."""
    content = _read(folder / f"{name}.yaml")
    if content is None or name in above:
        raise _NotPlainError
    defaults = content.pop("defaults", None)
    # A schema comes first: what is merged into it is checked and completed.
    if not isinstance(defaults, list) or defaults.count(SELF) != 1 or defaults[0] == SELF:
        raise _NotPlainError
    for entry in defaults:
        if not isinstance(entry, str) or not NAME.fullmatch(entry):
            raise _NotPlainError
        schema = entry.endswith("schema")
        if schema == (folder / f"{entry}.yaml").exists() and entry != SELF:
            raise _NotPlainError
        if entry == SELF:
            yield OmegaConf.create(content)
        elif schema:
            yield ConfigStore.instance().load(f"{group}/{entry}.yaml").node
        else:
            yield from _parts(folder, group, entry, (*above, name))


def _read(path: Path) -> dict[str, Any] | None:
    """A file as plain data, read as Hydra reads it; None where it has a header or is none."""
    try:
        if "@package" in path.read_text(encoding="utf-8"):
            return None
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return None
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else None
