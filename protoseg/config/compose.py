"""Composes a `RunSpec` from config groups and overrides, with Hydra.

Hydra composes the config files of the selected options. The values of the overrides are then set
in order, interpolations are resolved, and `build` makes the validated dataclasses.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protoseg.config.fields import build, field_types
from protoseg.config.hierarchy.files import HierarchyReader
from protoseg.config.hydra.fast_compose import OptionReader
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.hydra_errors import describe_config_error
from protoseg.config.hydra.hydra_schemas import config_groups, register_schemas
from protoseg.config.hydra.interpolations import resolve_interpolations
from protoseg.config.hydra.search_path import initialize_hydra
from protoseg.config.methods import MethodSpec
from protoseg.config.overrides import Setting
from protoseg.config.plugins import resolve_method
from protoseg.config.recipes.resolver import RecipeResolver
from protoseg.config.schema import RunSpec
from protoseg.config.texts.yaml_text import find_changed_texts, read_nodes
from protoseg.errors import UsageError, describe_unknown_name


class Composer:
    """Composes specs from folders of config groups.

    Args:
        experiments: folder with ``run.yaml``, one folder per group, and ``matrices/``.
        others: folders with the files that it does not have; see `ConfigFolders`.

    Raises:
        UsageError: no folder has a ``run.yaml``.
    """

    def __init__(self, experiments: Path, *others: Path) -> None:
        self.folders = ConfigFolders(experiments, others)
        if not self.folders.find("run.yaml").is_file():
            raise UsageError(
                f"{experiments}: not a folder of experiments (no run.yaml in it). Run protoseg in "
                "a project (protoseg init), or name the folder with --experiments."
            )
        register_schemas()
        self._composed: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
        self._reader = OptionReader(self.folders)
        self.hierarchies = HierarchyReader(self.folders)
        self.recipes = RecipeResolver(experiments.resolve())

    @functools.cached_property
    def options(self) -> dict[str, list[str]]:
        """Names of the options of each config group, sorted."""
        return {group: list(self.folders.list_files(group)) for group in config_groups()}

    def spec(self, settings: Iterable[Setting], where: str) -> RunSpec:
        """Compose the spec for settings; a later setting replaces an earlier one.

        Args:
            settings: options of groups and values, in order.
            where: place named in error messages.

        Raises:
            UsageError: an unknown option, key or value.
        """
        settings = list(settings)
        chosen = {s.key: self._check_option(s, where) for s in settings if s.key in self.options}
        data = copy.deepcopy(self._compose(chosen))
        _import_method(data, settings, where)  # `check_key` needs its fields
        for setting in settings:
            self.check_key(setting.key, where, data)
            if setting.key not in chosen:
                _set(data, setting, where)
        resolved = self.hierarchies.replace_value(resolve_interpolations(data, where))
        spec: RunSpec = build(RunSpec, resolved, f"{where}: ", resolve_method)
        _refuse_unused_settings(spec, settings, where)
        return self.recipes.add_values(spec, where)

    def _check_option(self, setting: Setting, where: str) -> str:
        options = self.options[setting.key]
        if setting.delete:
            raise UsageError(f"{where}: '{setting.key}' cannot be removed: every run needs one.")
        if not isinstance(setting.value, str):
            raise UsageError(
                f"{where}: {setting.key}: expected the name of an option, found "
                f"{setting.value!r}. Known: {', '.join(options)}. To set a single value, use its "
                f"key, e.g. {setting.key}.{_list_fields(config_groups()[setting.key])[-1]}=..."
            )
        if setting.value not in options:
            raise UsageError(describe_unknown_name(setting.key, setting.value, where, options))
        return setting.value

    def check_key(self, key: str, where: str, data: Mapping[str, Any]) -> None:
        """Check that a key belongs to a spec.

        Args:
            data: the composed config; the message lists the keys of its method.

        Raises:
            UsageError: an unknown key; the message suggests the nearest one.
        """
        groups = config_groups()
        set_by_protoseg = {"method_version", "recipes"}
        names = [name for name in field_types(RunSpec) if name not in set_by_protoseg]
        known: dict[str, Any] = {name: groups.get(name) for name in names}
        first, *rest = key.split(".")
        if first not in known:
            keys = [*known, *(f"{g}.{f}" for g, cls in groups.items() for f in _list_fields(cls))]
            raise UsageError(
                describe_unknown_name("key", key, where, keys if "." in key else known)
            )
        cls = known[first]
        if cls is None and rest:
            raise UsageError(f"{where}: '{first}' has no key '{rest[0]}'; it is a value.")
        if cls is not None and rest and rest[0] not in _list_fields(cls):
            method = MethodSpec.variants.get(str((data.get("method") or {}).get("kind")), cls)
            cls = method if cls is MethodSpec else cls
            candidates = [f"{first}.{name}" for name in _list_fields(cls)]
            raise UsageError(describe_unknown_name("key", key, where, candidates))

    def _refuse_changed_texts(self, chosen: Mapping[str, str]) -> None:
        """Hydra composes these options, and does not keep the typed text."""
        for group, name in chosen.items():
            path = self.folders.find(f"{group}/{name}.yaml")
            refuse_changed_texts(path, config_groups()[group])

    def _compose(self, chosen: Mapping[str, str]) -> dict[str, Any]:
        cache_key = tuple(sorted(chosen.items()))
        if cache_key not in self._composed:
            values = self._reader.read_options(chosen) if chosen else None
            if values is None:
                self._refuse_changed_texts(chosen)
            self._composed[cache_key] = (
                _compose(self.folders, "run", chosen)
                if values is None
                else {**self._compose({}), **values}
            )
        return self._composed[cache_key]


def refuse_changed_texts(path: Path, field_type: Any, allowed: Iterable[str] = ()) -> None:
    """Ask for quotes around texts that YAML reads as numbers or truth values.

    Args:
        path: a YAML file.
        field_type: the type of its content, as for `find_changed_texts`.
        allowed: texts that need no quotes.

    Raises:
        UsageError: names the first such text.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        node = read_nodes(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return  # Hydra reports it
    for key, typed in find_changed_texts(content, node, field_type):
        if typed in allowed:
            continue
        raise UsageError(
            f"{path}: {key}: YAML reads {typed} without quotes as a number or a truth value, but "
            f'text is expected. Write "{typed}".'
        )


def compose_file(folders: ConfigFolders, name: str, settings: Iterable[Setting], where: str) -> Any:
    """Compose one config file that is not part of a run, e.g. a cluster profile.

    The ``defaults`` of the file may name other files of the folders.

    Args:
        folders: folders of ``NAME.yaml``.
        name: file name without its ending.
        settings: in order; they replace the values of the file.
        where: place named in error messages about settings.

    Returns:
        Plain data with resolved interpolations.

    Raises:
        UsageError: the file is not readable, or a setting does not fit into it.
    """
    data = _compose(folders, name, {})
    for setting in settings:
        _set(data, setting, where)
    return resolve_interpolations(data, where)


def _compose(folders: ConfigFolders, name: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    selected = [f"{group}={option}" for group, option in sorted(chosen.items())]
    try:
        with (
            initialize_hydra(folders.all),
            warnings.catch_warnings(),
        ):
            # Without `_self_` it is unclear which values win, so it is an error here.
            warnings.filterwarnings("error", "(?s).*Defaults list is missing `_self_`")
            config = hydra.compose(name, selected)
        container = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    except Exception as error:  # Hydra raises ValueError, TypeError and others for some files
        classes = [*config_groups().values(), *MethodSpec.variants.values()]
        fields = {cls.__name__: _list_fields(cls) for cls in classes}
        raise UsageError(describe_config_error(error, folders, chosen, fields, name)) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _import_method(data: dict[str, Any], settings: Iterable[Setting], where: str) -> None:
    """Import the method that a composed config names, if it is in another package."""
    method = data.get("method")
    name = method.get("kind") if isinstance(method, dict) else None
    for setting in settings:
        name = setting.value if setting.key == "method.kind" else name
    if isinstance(name, str) and name not in MethodSpec.variants:
        resolve_method(name, f"{where}: method.kind")


def _refuse_unused_settings(spec: RunSpec, settings: list[Setting], where: str) -> None:
    """Refuse values that the spec drops: of pixel contrast without it, a digest without weights."""
    keys = {setting.key for setting in settings}
    for key in sorted(keys):
        # A matrix may turn contrast or weights off in some of its runs: it then names the switch.
        has_contrast = spec.contrast.weight or keys & {"contrast", "contrast.weight"}
        if key.startswith("contrast.") and not has_contrast:
            raise UsageError(
                f"{where}: {key}: has no effect, because contrast.weight is 0. Set contrast=pixel "
                "or contrast.weight, or remove it."
            )
        if (
            key == "dataset.class_weights"
            and spec.class_weights == "none"
            and ("class_weights" not in keys)
        ):
            raise UsageError(
                f"{where}: {key}: has no effect, because class_weights is none. Set "
                "class_weights=dataset, or remove it."
            )
        has_pipeline = spec.augmentation.pipeline and "augmentation.pipeline" not in keys
        is_replaced = key.startswith("augmentation.") and key != "augmentation.crop_size"
        if has_pipeline and is_replaced:
            raise UsageError(
                f"{where}: {key}: has no effect, because augmentation.pipeline replaces it. Remove "
                "one of them."
            )
        if key in ("init_from_sha256", "init_from_skip") and not spec.init_from:
            raise UsageError(
                f"{where}: {key}: has no effect, because init_from names no file. Set init_from, "
                "or remove it."
            )
        has_weights = spec.backbone.weights or keys & {"backbone", "backbone.weights"}
        if key == "backbone.weights_sha256" and not has_weights:
            raise UsageError(
                f"{where}: {key}: has no effect, because backbone.weights names no file. Set "
                "backbone.weights, or remove it."
            )


def _list_fields(cls: Any) -> list[str]:
    """List the fields of a dataclass; those of all methods for `MethodSpec`."""
    classes = MethodSpec.variants.values() if cls is MethodSpec else [cls]
    return list(dict.fromkeys(f.name for c in classes for f in dataclasses.fields(c)))


def _set(data: dict[str, Any], setting: Setting, where: str) -> None:
    """Set or delete a dotted key in nested dictionaries; `build` checks the value later."""
    *parents, last = setting.key.split(".")
    node: Any = data
    for parent in parents:
        if isinstance(node, dict):
            node = node.setdefault(parent, {})
    if not isinstance(node, dict):
        raise UsageError(
            f"{where}: '{setting.key}': '{'.'.join(parents)}' is a value, not a group."
        )
    if setting.delete:
        if last not in node:
            raise UsageError(describe_unknown_name("key", setting.key, where, map(str, node)))
        del node[last]
    else:
        node[last] = copy.deepcopy(setting.value)
