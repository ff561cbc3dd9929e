"""What a run takes from a recipe, a config file of mmseg: the sections of each role, as plain data.

A spec names three recipes. The encoder and the normalisation of images come from the recipe of the
backbone, the heads from that of the decoder, the optimiser from that of the schedule. Nothing else
of a recipe reaches a run, and some values of these sections are replaced by fields of the spec.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from protoseg import files

SECTIONS: dict[str, tuple[str, ...]] = {
    "backbone": ("model.data_preprocessor", "model.backbone"),
    "decoder": ("model.decode_head", "model.auxiliary_head"),
    "schedule": ("optim_wrapper",),
}
"""Role -> sections that a run takes from the recipe of this role."""

REPLACED: dict[str, str] = {
    "model.data_preprocessor.size": "augmentation.crop_size",
    "model.data_preprocessor.seg_pad_val": "dataset.ignore_index",
    "model.data_preprocessor.test_cfg": "",
    "model.decode_head.in_channels": "backbone.channels",
    "model.decode_head.channels": "decoder.channels",
    "model.decode_head.dropout_ratio": "decoder.dropout",
    "model.decode_head.num_classes": "dataset.classes",
    "model.decode_head.ignore_index": "dataset.ignore_index",
    "model.auxiliary_head.in_channels": "backbone.channels",
    "model.auxiliary_head.num_classes": "dataset.classes",
    "model.auxiliary_head.ignore_index": "dataset.ignore_index",
    "optim_wrapper.optimizer.lr": "schedule.learning_rate",
    "optim_wrapper.optimizer.weight_decay": "schedule.weight_decay",
    "optim_wrapper.paramwise_cfg.custom_keys.head": "schedule.head_lr_mult",
}
"""Value of a recipe that no run takes -> field of the spec that sets it instead; empty for none."""

REPLACED_BY_FORM = {
    "model.decode_head.in_index": "decoder.in_index",
    "model.decode_head.c1_in_channels": "backbone.channels",
}
"""The same, but the recipe decides whether the head reads one map or several, or this input."""

WEIGHTS = ("pretrained", "init_cfg")
"""Keys of a backbone that may name a file of weights, which ``backbone.weights`` names instead."""


TUPLE = "()"
"""Key that marks a tuple in JSON: some networks of mmseg refuse lists. ``{"()": [1, 2]}``."""


class NotTakenError(ValueError):
    """A recipe cannot have a role; the message is the reason, as the end of a sentence."""


def take_values(role: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Take the values of a role from a complete recipe.

    Args:
        role: ``backbone``, ``decoder`` or ``schedule``.
        config: the recipe with all its bases, as nested dictionaries.

    Returns:
        Last part of the section's name -> its values, without `REPLACED` ones and without files of
        weights, as `to_json` makes them.

    Raises:
        NotTakenError: the recipe lacks a section, has parts that protoseg does not build, or has a
            value that is not plain data.
    """
    taken: dict[str, Any] = {}
    for section in SECTIONS[role]:
        values = find_value(config, section)
        if values is None and section == "model.auxiliary_head":
            continue
        if values is None:
            raise NotTakenError(f"has no {section}")
        if section == "model.auxiliary_head" and isinstance(values, list | tuple):
            # Only `decoder.auxiliary` would need them: the decode head remains useful.
            values = {"number_of_heads": len(values)}
        if not isinstance(values, Mapping):
            raise NotTakenError(f"has several heads in {section}; protoseg builds one")
        taken[section.rpartition(".")[2]] = to_json(values, section)
    for path in REPLACED:
        section, _, rest = path.removeprefix("model.").partition(".")
        _remove(taken, [section, *rest.split(".")])
    if role == "backbone":
        taken["backbone"] = _remove_weights(taken["backbone"])
    if role == "decoder" and (neck := find_value(config, "model.neck")):
        name = neck.get("type") if isinstance(neck, Mapping) else neck
        raise NotTakenError(f"has a neck ({name}), which protoseg does not build")
    if role == "schedule" and taken["optim_wrapper"].get("accumulative_counts", 1) != 1:
        raise NotTakenError(
            "accumulates gradients over iterations (accumulative_counts), which an interruption "
            "would lose; a larger schedule.batch_size has the same effect"
        )
    return taken


def names_weights(key: str, value: Any) -> bool:
    """Whether the value of a key of a module names a file of weights, or asks for a download."""
    if key == "init_cfg":
        configs = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(c, Mapping) and c.get("type") == "Pretrained" for c in configs)
    return key == "pretrained" and value not in (None, False)


def _remove_weights(backbone: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in backbone.items() if not (k in WEIGHTS and names_weights(k, v))}


def find_value(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dictionaries; None if there is none."""
    node: Any = config
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def list_leaves(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of each value that is not a mapping with keys."""
    if isinstance(values, Mapping) and values.keys() == {TUPLE}:
        yield path, list(values[TUPLE])
    elif isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from list_leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values


def to_json(value: Any, path: str, *, mark_tuples: bool = True) -> Any:
    """Copy nested values with JSON types only.

    Args:
        path: named in error messages.
        mark_tuples: write a tuple as a mapping with the key `TUPLE`, otherwise as a list.

    Raises:
        NotTakenError: a value has no JSON type.
    """
    if isinstance(value, Mapping):
        return {
            str(key): to_json(item, f"{path}.{key}", mark_tuples=mark_tuples)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [
            to_json(item, f"{path}[{index}]", mark_tuples=mark_tuples)
            for index, item in enumerate(value)
        ]
        return {TUPLE: items} if mark_tuples and isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        raise NotTakenError(f"has {value} in {path}; a record holds finite numbers")
    if isinstance(value, bool | int | float | str | None):
        return value
    raise NotTakenError(
        f"has a {type(value).__name__} in {path}; a record holds text, numbers, lists and mappings"
    )


def restore_tuples(value: Any) -> Any:
    """Copy values of `to_json` with tuples instead of their marks."""
    if isinstance(value, Mapping):
        if value.keys() == {TUPLE}:
            return tuple(restore_tuples(item) for item in value[TUPLE])
        return {key: restore_tuples(item) for key, item in value.items()}
    return [restore_tuples(item) for item in value] if isinstance(value, list) else value


def digest_values(values: Any) -> str:
    """Compute the SHA-256 of values, as canonical JSON; 64 hex digits."""
    return hashlib.sha256(files.canonical_json(values)).hexdigest()


def _remove(node: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(keys[-1], None)
