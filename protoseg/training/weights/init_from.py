"""The checkpoint of a whole network from which a run starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from protoseg import files
from protoseg.config.schema import RunSpec
from protoseg.errors import DataError
from protoseg.training.weights.load import read_weights

COUNTER = "decode_head.iteration"
"""Iterations that a schedule of a head has counted: a new run starts at 0."""
SHOWN = 3
"""Number of keys that a message names."""


def find_start(spec: RunSpec, folder: Path) -> Path | None:
    """Find and verify the file of ``init_from``; None for a run without it.

    Args:
        folder: the weights folder.

    Raises:
        DataError: the file is missing, or has another digest than the spec.
    """
    if not spec.init_from:
        return None
    path = folder / spec.init_from
    if not path.is_file():
        raise DataError(
            f"init_from: {path} is missing. Copy the checkpoint there, or name the folder of "
            "weights with --weights or PROTOSEG_WEIGHTS."
        )
    digest = files.file_digest(path)
    if not digest.startswith(spec.init_from_sha256):
        raise DataError(
            f"init_from: the SHA-256 of {path} is {digest}, expected {spec.init_from_sha256}. Get "
            f"the expected file, or set init_from_sha256={digest}."
        )
    return path


def load_start(network: nn.Module, path: Path, skip: tuple[str, ...]) -> None:
    """Load the weights and buffers of a whole network.

    Args:
        network: the segmentor, without DDP's wrapper.
        path: a checkpoint of mmseg or protoseg, or a file with a dict of tensors.
        skip: beginnings of keys that are not loaded, and keep their initial values.

    Raises:
        DataError: not a file of weights, or keys that do not fit.
    """
    own, content = network.state_dict(), _name_as_here(read_weights(path))
    for beginning in skip:
        if not beginning or not any(key.startswith(beginning) for key in (*own, *content)):
            raise DataError(
                f"init_from_skip: no key begins with '{beginning}'. Keys begin with "
                f"{', '.join(sorted({key.partition('.')[0] for key in own}))}. Correct it."
            )
    state = {k: v for k, v in own.items() if not (k == COUNTER or k.startswith(skip))}
    loaded = {k: v for k, v in content.items() if not (k == COUNTER or k.startswith(skip))}
    problems = {
        "missing": [key for key in state if key not in loaded],
        "of another network": [key for key in loaded if key not in state],
        "of another shape": [
            f"{key} {_describe_shape(value)}, expected {tuple(state[key].shape)}"
            for key, value in loaded.items()
            if key in state and getattr(value, "shape", None) != state[key].shape
        ],
    }
    texts = [
        f"{len(keys)} {problem} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if texts:
        raise DataError(
            f"init_from: {path}: keys do not fit: {'; '.join(texts)}. Name the checkpoint of such "
            "a network, or the beginnings of keys to leave out in init_from_skip."
        )
    network.load_state_dict(loaded, strict=False)


def _name_as_here(content: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of mmseg's decode head, which is a part of the head of a method here."""
    if any(key.startswith("decode_head.head.") for key in content):
        return content
    return {
        re.sub(r"^decode_head\.", "decode_head.head.", key): value for key, value in content.items()
    }


def _describe_shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
