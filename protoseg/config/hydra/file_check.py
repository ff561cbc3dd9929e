"""Finds the wrong value in config files that Hydra could not compose.

Messages of Hydra and OmegaConf name Hydra's classes, not our keys. So the files are read again one
by one, and each value is checked as in a finished spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from protoseg.config.fields import convert, field_types, types_in_yaml
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

SCHEMAS = ("schema", "run_schema", "_self_")
UNRESOLVED = ("${", "???")
"""Marks of a text whose value is known only after all files are composed."""


def find_file_problem(folders: ConfigFolders, chosen: Mapping[str, str], name: str) -> str | None:
    """Find the first problem in the files of a config.

    Args:
        folders: folders of the config files.
        chosen: group -> option.
        name: the composed file, without its ending.

    Returns:
        One message with file, key and allowed values; None if no single value is wrong.
    """
    files = [(folders.find(f"{group}/{option}.yaml"), group) for group, option in chosen.items()]
    files += [(folders.find(f"{name}.yaml"), "")]
    seen: set[Path] = set()
    while files:
        path, group = files.pop(0)
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # its own message is better
        if "@package" in text or content is None:
            continue
        try:
            files += _check_file(folders, path, group, content)
        except UsageError as error:
            return str(error)
    return None


def _check_file(
    folders: ConfigFolders, path: Path, group: str, content: Any
) -> Iterator[tuple[Path, str]]:
    """Check the values of a file; yield the files that its defaults name."""
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: expected keys and values, found {content!r}.")
    if path.name != "run.yaml" and not group:  # not a part of a run, e.g. a cluster profile
        yield from _check_defaults(folders, path, group, content.get("defaults", []))
        return
    cls = config_groups()[group] if group else RunSpec
    if cls is MethodSpec:
        cls = MethodSpec.variants.get(str(content.get("kind")), None)
    for key, value in content.items():
        if key == "defaults":
            yield from _check_defaults(folders, path, group, value)
        elif cls is not None:
            if key not in field_types(cls):
                raise UsageError(
                    describe_unknown_name("key", str(key), str(path), field_types(cls))
                )
            if not any(mark in repr(value) for mark in UNRESOLVED):
                where = f"{path}: {group}.{key}" if group else f"{path}: {key}"
                metadata = cls.__dataclass_fields__[key].metadata
                convert(types_in_yaml(cls)[key], value, where, metadata)


def _check_defaults(
    folders: ConfigFolders, path: Path, group: str, value: Any
) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, list):
        raise UsageError(
            f"{path}: defaults: expected a list, found {value!r}. Write: defaults: [schema, _self_]"
        )
    for entry in value:
        items = dict(entry) if isinstance(entry, Mapping) else {group: entry}
        for key, name in items.items():
            if not isinstance(key, str) or not isinstance(name, str):
                raise UsageError(
                    f"{path}: defaults: expected names of files, found {entry!r}. Write the name "
                    "without its ending."
                )
            if not (name in SCHEMAS or name.endswith("_schema")):
                folder = group if key == group else "/".join(filter(None, (group, key)))
                yield _find_default(folders, path, folder, key, name)


def _find_default(
    folders: ConfigFolders, path: Path, folder: str, key: str, name: str
) -> tuple[Path, str]:
    if "$" in name or "@" in key or " " in key or "/" in name:
        return path, key  # an entry in Hydra's own notation
    file = folders.find(f"{folder}/{name}.yaml" if folder else f"{name}.yaml")
    if not file.is_file():
        known = folders.list_files(folder)
        raise UsageError(describe_unknown_name("file", name, f"{path}: defaults", known))
    return file, key
