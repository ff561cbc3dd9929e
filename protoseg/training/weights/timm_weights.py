"""Weights of models of timm: found in the cache of the hub, loaded as timm does, and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from protoseg.errors import DataError
from protoseg.models.timm_backbone import TimmBackbone, import_timm
from protoseg.training.builders.timm_models import check_model_name, get_pretrained_settings

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in the hub, in timm's order."""


def find_hub_weights(name: str) -> Path:
    """Find the weights of a model in the cache of the hub; nothing is downloaded.

    Args:
        name: name of a model of timm, with or without a tag.

    Raises:
        UsageError: timm is missing, or has no such model.
        DataError: the hub has no weights of it, or they are not in the cache.
    """
    check_model_name(name)
    from huggingface_hub import constants, try_to_load_from_cache

    settings = get_pretrained_settings(name)
    repository = settings.hf_hub_id
    if not repository:
        raise DataError(
            f"backbone {name}: timm names no weights of it in the hub. Name a file in the weights "
            "folder (backbone.weights=FILE), or set backbone.weights='' for none."
        )
    names = (settings.hf_hub_filename,) if settings.hf_hub_filename else FILES
    for file in names:
        path = try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return Path(path)
    raise DataError(
        f"backbone {name}: its weights are not in the hub's cache ({constants.HF_HUB_CACHE}), and "
        f"runs use no network. Download them on a machine with a connection: hf download "
        f"{repository} {names[0]}. Or name a file: backbone.weights=FILE."
    )


def load_timm_weights(backbone: TimmBackbone, path: Path) -> None:
    """Load all parameters and statistics of a backbone from a file, with timm's conversions.

    Args:
        backbone: its parameters and buffers are replaced.
        path: ``.safetensors``, or weights saved by torch; a classifier in it is not used.

    Raises:
        DataError: not a weights file, or weights that do not fit the model.
    """
    overlay = {"file": str(path), "custom_load": False}
    try:
        with _record_loading() as loaded:
            source = import_timm().create_model(
                **backbone.settings, pretrained=True, pretrained_cfg_overlay=overlay
            )
    except Exception as error:  # timm's conversions fail in many ways for keys of another model
        raise DataError(_describe_misfit(path, backbone, str(error).strip())) from error
    name = str(backbone.settings["model_name"])
    classifier = get_pretrained_settings(name).classifier or ()  # timm does not load it
    prefixes = tuple(f"{part}." for part in _as_tuple(classifier))
    keys = [key for result in loaded for key in result.missing_keys]
    missing = [key for key in keys if not key.startswith(prefixes)]
    if missing or not loaded:
        raise DataError(
            f"{path}: these weights do not fit {name}: {len(missing) or 'all'} of its entries are "
            f"missing{f', the first is {missing[0]}' if missing else ''}. Use weights of this "
            "model, or backbone.weights='' for none."
        )
    backbone.model.load_state_dict(source.state_dict())


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _describe_misfit(path: Path, backbone: TimmBackbone, text: str) -> str:
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    problems = [line for line in lines if line.startswith(("size mismatch", "Missing", "Unexp"))]
    first = (problems or lines or ["no reason given"])[0]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return (
        f"{path}: these weights do not fit {backbone.settings['model_name']}: {first[:200]}{more}. "
        "Use weights of this model, or backbone.weights='' for none."
    )


@contextlib.contextmanager
def _record_loading() -> Iterator[list[Any]]:
    """Collect the results of ``load_state_dict``: timm only logs which keys were missing."""
    results: list[Any] = []
    original = nn.Module.load_state_dict

    def load_and_record(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        result = original(module, *arguments, **options)
        results.append(result)
        return result

    nn.Module.load_state_dict = load_and_record  # type: ignore
    try:
        yield results
    finally:
        nn.Module.load_state_dict = original  # type: ignore
