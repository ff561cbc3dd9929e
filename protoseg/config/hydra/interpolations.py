"""Resolves the references in a composed config, such as ``${method.kappa}``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from protoseg.errors import UsageError


def _drop_missing(data: dict[str, Any]) -> dict[str, Any]:
    """Drop the required values that no file sets; `build` reports them."""
    return {
        key: _drop_missing(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if not (isinstance(value, str) and value == MISSING)
    }


def resolve_interpolations(data: dict[str, Any], where: str) -> Any:
    """Replace references such as ``${method.kappa}`` by values.

    Raises:
        UsageError: names the first reference that has no value.
    """
    data = _drop_missing(data)
    if "${" not in repr(data):
        return data
    substituted = _substitute(data, data)
    if "${" not in repr(substituted):
        return substituted
    try:
        config: DictConfig = OmegaConf.create(data)
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        key, text = next(_list_interpolations(substituted, ""), ("", ""))
        raise UsageError(
            f"{where}: {key}: '{text}' cannot be resolved. A reference names a key with a value, "
            "e.g. ${method.kappa}."
        ) from error


def _list_interpolations(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of the texts that `OmegaConf` cannot resolve or that were not tried."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    elif isinstance(value, str) and "${" in value:
        yield key, value
    for name, item in items:
        yield from _list_interpolations(item, f"{key}.{name}" if key else str(name))


REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def _substitute(value: Any, root: dict[str, Any]) -> Any:
    """Replace every text that is exactly one reference, such as ``${method.kappa}``, by its value.

    OmegaConf resolves the other interpolations. It first turns the whole config into objects,
    which takes four seconds for a thousand runs.
    """
    if isinstance(value, dict):
        return {key: _substitute(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, root) for item in value]
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    node: Any = root
    for part in match[1].split("."):
        if not isinstance(node, dict) or part not in node:
            return value
        node = node[part]
    return copy.deepcopy(node)
