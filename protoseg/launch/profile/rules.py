"""Rules of a cluster profile: runs of a kind that need other resources than the rest.

    rules:
      - when: {schedule.batch_size: [8, 16], backbone.name: mit_b0}
        gpus: 1
        time: "4:00:00"

A rule holds where the run's spec has one of the values of each key; the first that holds wins.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg.config.fields import build, convert, field_types, plain
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, unknown
from protoseg.launch.profile.resources import Resources

WHEN = "when"


@dataclass(frozen=True)
class Rule:
    """Conditions on a spec, and the resources where they hold."""

    when: Mapping[str, list[Any]]
    """Dotted key of the spec -> values, of which it must have one."""
    resources: Resources

    def holds(self, spec: Mapping[str, Any]) -> bool:
        """Whether a spec, as plain data, has what the rule asks for."""
        return all(_value(spec, key) in values for key, values in self.when.items())


def read_rule(data: Mapping[str, Any], base: Mapping[str, Any], where: str) -> Rule:
    """A rule from plain data.

    Args:
        data: ``when``, and the resources that differ.
        base: the resources of all other runs, by key.
        where: the place that errors name.

    Raises:
        UsageError: an unknown key, a value of the wrong type, or nothing that differs.
    """
    when = data.get(WHEN)
    changes = {key: value for key, value in data.items() if key != WHEN}
    if not isinstance(when, Mapping) or not when:
        raise UsageError(
            f"{where}: expected '{WHEN}' with at least one key of a spec, e.g. "
            f"{WHEN}: {{schedule.batch_size: 16}}, found {when!r}."
        )
    if not changes:
        raise UsageError(f"{where}: changes nothing; name the resources that such runs get.")
    conditions = {
        str(key): _allowed(str(key), value, f"{where}: {WHEN}.{key}") for key, value in when.items()
    }
    try:
        resources = build(Resources, {**base, **changes}, f"{where}: ")
    except UsageError as error:
        raise UsageError(_placed(str(error), where)) from error
    return Rule(conditions, resources)


def _placed(message: str, where: str) -> str:
    return message if message.startswith(where) else f"{where}: {message}"


def _allowed(key: str, value: Any, where: str) -> list[Any]:
    """The values that satisfy a condition, as a plain spec would hold them."""
    kinds = _kinds(key, where)
    is_list = any(typing.get_origin(kind) is tuple for kind, _ in kinds)
    several = isinstance(value, list | tuple) and not is_list
    return [_converted(kinds, one, where) for one in (value if several else [value])]


def _converted(kinds: list[tuple[Any, Any]], value: Any, where: str) -> Any:
    problem: UsageError | None = None
    for kind, bounds in kinds:
        try:
            return plain(convert(kind, value, where, bounds))
        except UsageError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _kinds(key: str, where: str) -> list[tuple[Any, Any]]:
    """Type and bounds of a key of a spec; several where methods differ in it."""
    owners: list[Any] = [RunSpec]
    found: list[tuple[Any, Any]] = []
    for part in key.split("."):
        known = [(field, owner) for owner in owners for field in dataclasses.fields(owner)]
        found = [(field_types(o)[f.name], f.metadata) for f, o in known if f.name == part]
        if not found:
            names = {field.name for field, _ in known}
            raise UsageError(unknown("key", part, where, names))
        if any(typing.get_origin(kind) is dict for kind, _ in found):
            return [(Any, {})]  # what stands inside free settings is anyone's
        owners = []
        for kind, _ in found:
            owners += MethodSpec.variants.values() if kind is MethodSpec else [kind]
        owners = [owner for owner in owners if dataclasses.is_dataclass(owner)]
    if owners:
        keys = ", ".join(dict.fromkeys(f.name for o in owners for f in dataclasses.fields(o)))
        raise UsageError(f"{where}: is a group of the spec; name one of its keys: {keys}.")
    return found


def _value(spec: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(spec, Mapping) or part not in spec:
            return _NOTHING
        spec = spec[part]
    return spec


_NOTHING = object()
