"""Bit comparison of two finished runs of one spec (see campaign.py)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record, verify_confusion
from protoseg.training import checkpoint

PARTS = ("spec", "metrics", "per_class", "parameters", "losses", "confusion")
"""Keys of a record that are equal for equal specs; others are times, machine and attempts."""


@dataclass
class Difference:
    """The amount of compared data, and the differences."""

    numbers: int = 0
    bits: int = 0
    """Number of compared bits."""
    differing: int = 0
    """Number of different bits."""
    names: list[str] = field(default_factory=list)
    """Names of different values; at most eight."""

    def add_bytes(self, name: str, one: bytes, other: bytes, numbers: int) -> None:
        """Compare the bytes of one value of both runs."""
        self.numbers += numbers
        self.bits += 8 * len(one)
        if one == other:
            return
        wrong = abs(len(one) - len(other)) * 8
        wrong += sum((a ^ b).bit_count() for a, b in zip(one, other, strict=False))
        self.differing += wrong
        self.add_difference(f"{name} ({wrong} bits)")

    def add_difference(self, description: str) -> None:
        """Add a difference."""
        if len(self.names) < 8:
            self.names.append(description)


def compare(one: RunFolder, other: RunFolder) -> Difference:
    """Compare the records, the confusion counts of every image, the last and the best models.

    A checkpoint contains weights, prototypes and their counts, the optimizer, the schedules, the
    states of all random generators, and the loss curve.
    """
    difference = Difference()
    records = [read_record(folder.record) for folder in (one, other)]
    for record, folder in zip(records, (one, other), strict=True):
        verify_confusion(record, folder.confusion)
    for part in PARTS:
        _compare_values(difference, part, records[0][part], records[1][part])
    _compare_values(difference, "curve", *(record.get("curve") for record in records))
    counts = one.confusion.read_bytes(), other.confusion.read_bytes()
    difference.add_bytes("confusion.npz", *counts, 0)
    models = [checkpoint.find_best(folder.checkpoints) for folder in (one, other)]
    states = [model and torch.load(model.path, weights_only=True) for model in models]
    _compare_values(difference, "best", *states)
    states = []
    for folder in (one, other):
        last, problems = checkpoint.find_newest(folder.checkpoints)
        if last is None or problems:
            difference.add_difference(f"the last checkpoint: {'; '.join(problems) or 'none'}")
            return difference
        state = torch.load(last.path, weights_only=True)
        state["extra"].pop("seconds")  # the training time is not a result
        state["extra"].get("metrics", {}).pop("seconds", None)
        states.append(state)
    _compare_values(difference, "", *states)
    return difference


def _compare_values(difference: Difference, name: str, one: Any, other: Any) -> None:
    """Compare two values recursively, down to single numbers."""
    if type(one) is not type(other):
        difference.add_difference(f"{name}: {type(one).__name__} and {type(other).__name__}")
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            difference.add_difference(
                f"{name}: other keys: {sorted(map(str, one.keys() ^ other.keys()))}"
            )
            return
        for key in one:
            _compare_values(difference, f"{name}.{key}".lstrip("."), one[key], other[key])
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            difference.add_difference(f"{name}: {len(one)} and {len(other)} items")
            return
        if all(isinstance(value, int) for value in (*one, *other)):
            difference.add_bytes(
                name, *(b"".join(_bytes(v) for v in x) for x in (one, other)), len(one)
            )
            return
        for number, pair in enumerate(zip(one, other, strict=True)):
            _compare_values(difference, f"{name}[{number}]", *pair)
    elif isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            difference.add_difference(
                f"{name}: {one.dtype} {one.shape} and {other.dtype} {other.shape}"
            )
            return
        difference.add_bytes(name, *(_tensor_bytes(t) for t in (one, other)), one.numel())
    else:
        difference.add_bytes(name, _bytes(one), _bytes(other), int(isinstance(one, int | float)))


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


def _bytes(value: Any) -> bytes:
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, bool) or not isinstance(value, int):
        return repr(value).encode()
    return struct.pack("<q", value)


def list_names(state: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all leaves of a value, in the form of `compare`."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from list_names(value, f"{prefix}.{key}".lstrip("."))
    else:
        yield prefix
