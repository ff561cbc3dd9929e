"""From config groups and overrides to a `RunSpec`, with Hydra.

Hydra composes the config files of the chosen groups; values are then set in order, interpolations
resolved, and the result built into the frozen, validated dataclasses.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protoseg.config import plugins
from protoseg.config.fast_compose import Options
from protoseg.config.fields import build
from protoseg.config.hydra_errors import config_problem
from protoseg.config.hydra_schemas import groups, register
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True)
class Setting:
    """One override: a group choice, a value, an addition or a deletion."""

    key: str
    value: Any
    delete: bool = False


def parse_overrides(texts: Iterable[str]) -> list[tuple[str, list[Setting]]]:
    """Overrides in Hydra's grammar, as (key, settings): several settings where it is a sweep.

    Raises:
        UsageError: not in the grammar.
    """
    texts = list(texts)
    parser = OverridesParser.create()
    parsed = []
    for text in texts:
        try:
            override = parser.parse_override(text)
            settings = _settings(override)
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"override '{text}': {reason}. Overrides are written key=value, e.g. "
                "method.num_prototypes=5 or dataset=camvid."
            ) from error
        if override.package is not None:
            raise UsageError(
                f"override '{text}': '@{override.package}' puts a group somewhere else, and here "
                f"each has its one place; write {override.key_or_group}=..."
            )
        parsed.append((override.key_or_group, settings))
    return parsed


def parse_sweep(key: str, text: str) -> list[Any]:
    """The values of a sweep in Hydra's grammar: ``1,5,10``, ``range(1,5)``, ``choice(a,b)``."""
    ((_, settings),) = parse_overrides([f"{key}={text}"])
    return [setting.value for setting in settings]


def _settings(override: Override) -> list[Setting]:
    key = override.key_or_group
    if override.is_delete():
        return [Setting(key, None, delete=True)]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            raise HydraException("a sweep needs its values: 1,5,10 or range(1,5) or choice(a,b)")
        return [Setting(key, value) for value in override.sweep_iterator(_unquoted)]
    return [Setting(key, override.value())]


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, dict):
        return {_unquoted(key): _unquoted(item) for key, item in value.items()}
    return value


class Composer:
    """Composes specs from a folder of config groups.

    Args:
        experiments: folder with ``run.yaml``, one folder a group, and ``matrices/``.

    Raises:
        UsageError: the folder has no ``run.yaml``.
    """

    def __init__(self, experiments: Path) -> None:
        self.experiments = experiments.resolve()
        if not (self.experiments / "run.yaml").is_file():
            raise UsageError(
                f"{experiments}: not a folder of experiments (no run.yaml in it). Run protoseg "
                "inside its checkout, or name the folder with --experiments."
            )
        register()
        self._composed: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
        self._options = Options(self.experiments)

    @functools.cached_property
    def options(self) -> dict[str, list[str]]:
        """Config group -> its options."""
        return {
            group: sorted(path.stem for path in (self.experiments / group).glob("*.yaml"))
            for group in groups()
        }

    def spec(self, settings: Iterable[Setting], where: str) -> RunSpec:
        """The spec that results from settings, the later ones winning.

        Raises:
            UsageError: an unknown group option, key or value; it names ``where``.
        """
        settings = list(settings)
        chosen = {s.key: self._option(s, where) for s in settings if s.key in self.options}
        data = copy.deepcopy(self._compose(chosen))
        _know_method(data, settings, where)  # before its keys are checked
        for setting in settings:
            self.check_key(setting.key, where)
            if setting.key not in chosen:
                _set(data, setting, where)
        spec: RunSpec = build(RunSpec, _resolve(data, where), f"{where}: ")
        return spec

    def _option(self, setting: Setting, where: str) -> str:
        options = self.options[setting.key]
        if setting.delete:
            raise UsageError(f"{where}: '{setting.key}' can not be removed: every run has one.")
        if not isinstance(setting.value, str):
            raise UsageError(
                f"{where}: {setting.key}: expected the name of an option, found "
                f"{setting.value!r}. Known: {', '.join(options)}. Single values are set by their "
                f"keys, e.g. {setting.key}.{_fields(groups()[setting.key])[-1]}=..."
            )
        if setting.value not in options:
            raise UsageError(unknown(setting.key, setting.value, where, options))
        return setting.value

    def check_key(self, key: str, where: str) -> None:
        """Refuse a key that no spec has, with the nearest one that it has."""
        known: dict[str, Any] = {**groups(), **dict.fromkeys(("determinism", "precision", "seed"))}
        parts = key.split(".")
        if parts[0] not in known:
            keys = [*known, *(f"{g}.{f}" for g, kind in groups().items() for f in _fields(kind))]
            raise UsageError(unknown("key", key, where, keys if "." in key else known))
        kind = known[parts[0]]
        if kind is None and len(parts) > 1:
            raise UsageError(f"{where}: '{parts[0]}' has no key '{parts[1]}'; it is a value.")
        if kind is not None and len(parts) > 1 and parts[1] not in _fields(kind):
            candidates = [f"{parts[0]}.{name}" for name in _fields(kind)]
            raise UsageError(unknown("key", key, where, candidates))

    def _compose(self, chosen: Mapping[str, str]) -> dict[str, Any]:
        cache_key = tuple(sorted(chosen.items()))
        if cache_key not in self._composed:
            alone = self._options.values(chosen) if chosen else None
            self._composed[cache_key] = (
                _compose(self.experiments, "run", chosen)
                if alone is None
                else {**self._compose({}), **alone}
            )
        return self._composed[cache_key]


def compose_file(folder: Path, name: str, settings: Iterable[Setting], where: str) -> Any:
    """One config file that stands for itself, with settings put into it: plain data.

    Its ``defaults`` may name other files of the folder; interpolations are resolved.

    Args:
        folder: holds ``NAME.yaml``.
        name: of the file.
        settings: in order; they win over the file.
        where: the place that errors about settings name.

    Raises:
        UsageError: not readable, or a setting that does not fit into it.
    """
    data = _compose(folder.resolve(), name, {})
    for setting in settings:
        _set(data, setting, where)
    return _resolve(data, where)


def _compose(folder: Path, name: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra.compose(name, [f"{g}={option}" for g, option in sorted(chosen.items())])
        container = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        kinds = [*groups().values(), *MethodSpec.variants.values()]
        fields = {kind.__name__: _fields(kind) for kind in kinds}
        raise UsageError(config_problem(error, folder, chosen, fields, name)) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _know_method(data: dict[str, Any], settings: Iterable[Setting], where: str) -> None:
    """Import the method that a composed config names, where it is not protoseg's own."""
    method = data.get("method")
    kind = method.get("kind") if isinstance(method, dict) else None
    for setting in settings:
        kind = setting.value if setting.key == "method.kind" else kind
    if plugins.is_full_name(kind) and kind not in MethodSpec.variants:
        plugins.load_kind(str(kind), MethodSpec.variants, f"{where}: method.kind")


def _fields(kind: Any) -> list[str]:
    kinds = MethodSpec.variants.values() if kind is MethodSpec else [kind]
    return list(dict.fromkeys(f.name for k in kinds for f in dataclasses.fields(k)))


def _set(data: dict[str, Any], setting: Setting, where: str) -> None:
    """Set or delete a dotted key in nested dictionaries; `build` judges the result."""
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
            raise UsageError(unknown("key", setting.key, where, map(str, node)))
        del node[last]
    else:
        node[last] = copy.deepcopy(setting.value)


def _without_missing(data: dict[str, Any]) -> dict[str, Any]:
    """Without the values that a schema asks for and no file gives: `build` names them."""
    return {
        key: _without_missing(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if not (isinstance(value, str) and value == MISSING)
    }


def _resolve(data: dict[str, Any], where: str) -> Any:
    data = _without_missing(data)
    if "${" not in repr(data):
        return data
    simple = _substituted(data, data)
    if "${" not in repr(simple):
        return simple
    try:
        config: DictConfig = OmegaConf.create(data)
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {str(error).splitlines()[0]}") from error


REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def _substituted(value: Any, root: dict[str, Any]) -> Any:
    """``value`` with texts that are one reference and nothing else replaced by what they mean.

    OmegaConf resolves everything, but turns the whole config into objects first: a thousand runs
    would take four seconds. What is more than a plain reference is left to it.
    """
    if isinstance(value, dict):
        return {key: _substituted(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, root) for item in value]
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    node: Any = root
    for part in match[1].split("."):
        if not isinstance(node, dict) or part not in node:
            return value
        node = node[part]
    return copy.deepcopy(node)
