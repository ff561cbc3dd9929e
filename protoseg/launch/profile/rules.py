"""Rules of a cluster profile: other resources for some runs.

    rules:
      - when: {schedule.batch_size: [8, 16], backbone.name: mit_b0}
        gpus: 1
        time: "4:00:00"

A rule matches a run whose spec has, for each key, one of the values. The first match applies.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg.config.fields import build, convert, field_types, to_plain
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.launch.profile.resources import Resources
from protoseg.launch.profile.values import YAML_NOUNS

WHEN = "when"


@dataclass(frozen=True)
class Rule:
    """Conditions on a spec, and the resources of the runs that match."""

    when: Mapping[str, list[Any]]
    """Dotted key of the spec -> allowed values."""
    resources: Resources

    def matches(self, spec: Mapping[str, Any]) -> bool:
        """Return whether a spec (plain data) matches the rule."""
        return all(_get_value(spec, key) in values for key, values in self.when.items())


def read_rule(data: Mapping[str, Any], base: Mapping[str, Any], where: str) -> Rule:
    """Make a rule from plain data.

    Args:
        data: ``when``, and the resources that differ.
        base: key -> resources of all other runs.
        where: location for error messages.

    Raises:
        UsageError: an unknown key, a value of the wrong type, or no resources.
    """
    when = data.get(WHEN)
    changes = {key: value for key, value in data.items() if key != WHEN}
    if not isinstance(when, Mapping) or not when:
        raise UsageError(
            f"{where}: '{WHEN}' is {when!r}. Allowed: at least one key of a spec, e.g. "
            f"{WHEN}: {{schedule.batch_size: 16}}."
        )
    if not changes:
        raise UsageError(f"{where}: sets no resources. Add the resources of such runs.")
    conditions = {
        str(key): _allowed_values(str(key), value, f"{where}: {WHEN}.{key}")
        for key, value in when.items()
    }
    try:
        resources = build(Resources, {**base, **changes}, f"{where}: ", nouns=YAML_NOUNS)
    except UsageError as error:
        raise UsageError(_add_place(str(error), where)) from error
    return Rule(conditions, resources)


def _add_place(message: str, where: str) -> str:
    return message if message.startswith(where) else f"{where}: {message}"


def _allowed_values(key: str, value: Any, where: str) -> list[Any]:
    """Return the values that satisfy a condition, in the form of a plain spec."""
    types = _find_types(key, where)
    is_list_key = any(typing.get_origin(type_) is tuple for type_, _ in types)
    values = value if isinstance(value, list | tuple) and not is_list_key else [value]
    return [_convert_value(types, one, where) for one in values]


def _convert_value(types: list[tuple[Any, Any]], value: Any, where: str) -> Any:
    problem: UsageError | None = None
    for type_, bounds in types:
        try:
            return to_plain(convert(type_, value, where, bounds))
        except UsageError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _find_types(key: str, where: str) -> list[tuple[Any, Any]]:
    """Return (type, bounds) of a key of a spec; methods may have several types for one key."""
    owners: list[Any] = [RunSpec]
    types: list[tuple[Any, Any]] = []
    for part in key.split("."):
        fields = [(field, owner) for owner in owners for field in dataclasses.fields(owner)]
        types = [(field_types(o)[f.name], f.metadata) for f, o in fields if f.name == part]
        if not types:
            names = {field.name for field, _ in fields}
            raise UsageError(describe_unknown_name("key", part, where, names))
        if any(typing.get_origin(type_) is dict for type_, _ in types):
            return [(Any, {})]  # free settings accept any value
        owners = []
        for type_, _ in types:
            owners += MethodSpec.variants.values() if type_ is MethodSpec else [type_]
        owners = [owner for owner in owners if dataclasses.is_dataclass(owner)]
    if owners:
        keys = ", ".join(dict.fromkeys(f.name for o in owners for f in dataclasses.fields(o)))
        raise UsageError(f"{where}: is a group of the spec. Use one of its keys: {keys}.")
    return types


def _get_value(spec: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(spec, Mapping) or part not in spec:
            return _MISSING
        spec = spec[part]
    return spec


_MISSING = object()
