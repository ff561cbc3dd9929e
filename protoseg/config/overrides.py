"""Parses overrides in Hydra's grammar, e.g. ``method.num_prototypes=5`` or ``seed=0,1,2``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, ValueType
from hydra.errors import HydraException

from protoseg.errors import UsageError


@dataclass(frozen=True)
class Setting:
    """One override: it selects the option of a group, or sets, adds or deletes a value."""

    key: str
    """Config group or dotted key of a value, e.g. ``method.kappa``."""
    value: Any
    delete: bool = False
    """Delete the key; ``value`` is then None."""


def parse_overrides(texts: Iterable[str]) -> list[tuple[str, list[Setting]]]:
    """Parse overrides in Hydra's grammar.

    Returns:
        (key, settings) of each override; a sweep has several settings.

    Raises:
        UsageError: an override is not in the grammar.
    """
    texts = list(texts)
    parser = OverridesParser.create()
    parsed = []
    for text in texts:
        try:
            override = parser.parse_override(text)
            settings = _read_settings(override)
        except HydraException as error:
            raise UsageError(
                f"override '{text}': not readable. Write key=value, e.g. method.num_prototypes=5 "
                "or dataset=camvid. A list is 'key=[1,2]', several runs are key=1,2, and a text "
                "with special characters is key='\"a: b\"'."
            ) from error
        if override.package is not None:
            raise UsageError(
                f"override '{text}': '@{override.package}' moves a group, which is not supported; "
                f"write {override.key_or_group}=..."
            )
        parsed.append((override.key_or_group, settings))
    return parsed


def parse_sweep(key: str, text: str) -> list[Any]:
    """Parse the values of a sweep in Hydra's grammar: ``1,5,10``, ``range(1,5)``, ``choice(a,b)``.

    Args:
        key: named in error messages.
        text: the values.

    Raises:
        UsageError: ``text`` is not in the grammar.
    """
    ((_, settings),) = parse_overrides([f"{key}={text}"])
    return [setting.value for setting in settings]


def _read_settings(override: Override) -> list[Setting]:
    key = override.key_or_group
    if override.is_delete():
        return [Setting(key, None, delete=True)]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            raise UsageError(
                f"override '{override.input_line}': a sweep needs a list of values. Write 1,5,10 "
                "or range(1,5) or choice(a,b)."
            )
        return [Setting(key, value) for value in override.sweep_iterator(_unquote)]
    return [Setting(key, override.value())]


def _unquote(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquote(item) for item in value]
    if isinstance(value, dict):
        return {_unquote(key): _unquote(item) for key, item in value.items()}
    return value
