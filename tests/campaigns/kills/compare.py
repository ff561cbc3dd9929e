"""Two finished runs of one spec, bit for bit (campaign.py)."""

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
"""What equal specs have in common in their records; the rest is times, machine, attempts."""


@dataclass
class Difference:
    """What was compared, and what of it differs."""

    numbers: int = 0
    bits: int = 0
    """Compared."""
    differing: int = 0
    """Bits that differ."""
    names: list[str] = field(default_factory=list)
    """Where; at most a few are kept."""

    def note(self, name: str, mine: bytes, theirs: bytes, numbers: int) -> None:
        """Compare the bytes of something that both have."""
        self.numbers += numbers
        self.bits += 8 * len(mine)
        if mine == theirs:
            return
        wrong = abs(len(mine) - len(theirs)) * 8
        wrong += sum((a ^ b).bit_count() for a, b in zip(mine, theirs, strict=False))
        self.differing += wrong
        self.print_errors(f"{name} ({wrong} bits)")

    def print_errors(self, words: str) -> None:
        """Write down a difference."""
        if len(self.names) < 8:
            self.names.append(words)


def compare(one: RunFolder, other: RunFolder) -> Difference:
    """The records, the counts of every image, and everything in the last checkpoint.

    The checkpoint holds weights, prototypes and their counts, the optimiser, the schedules, the
    states of all generators, and the loss curve.
    """
    found = Difference()
    records = [read_record(folder.record) for folder in (one, other)]
    for record, folder in zip(records, (one, other), strict=True):
        verify_confusion(record, folder.confusion)
    for part in PARTS:
        _walk(found, part, records[0][part], records[1][part])
    found.note("confusion.npz", one.confusion.read_bytes(), other.confusion.read_bytes(), 0)
    states = []
    for folder in (one, other):
        last, problems = checkpoint.newest(folder.checkpoints)
        if last is None or problems:
            found.print_errors(f"the last checkpoint: {'; '.join(problems) or 'none'}")
            return found
        state = torch.load(last.path, weights_only=True)
        state["extra"].pop("seconds")  # how long it took is no part of a result
        states.append(state)
    _walk(found, "", *states)
    return found


def _walk(found: Difference, name: str, one: Any, other: Any) -> None:
    """Compare two values of the same make, down to every number."""
    if type(one) is not type(other):
        found.print_errors(f"{name}: {type(one).__name__} and {type(other).__name__}")
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            found.print_errors(f"{name}: other keys: {sorted(map(str, one.keys() ^ other.keys()))}")
            return
        for key in one:
            _walk(found, f"{name}.{key}".lstrip("."), one[key], other[key])
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            found.print_errors(f"{name}: {len(one)} and {len(other)} items")
            return
        if all(isinstance(value, int) for value in (*one, *other)):
            found.note(name, *(b"".join(_bytes(v) for v in x) for x in (one, other)), len(one))
            return
        for number, pair in enumerate(zip(one, other, strict=True)):
            _walk(found, f"{name}[{number}]", *pair)
    elif isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            found.print_errors(f"{name}: {one.dtype} {one.shape} and {other.dtype} {other.shape}")
            return
        found.note(name, *(_of_tensor(t) for t in (one, other)), one.numel())
    else:
        found.note(name, _bytes(one), _bytes(other), int(isinstance(one, int | float)))


def _of_tensor(tensor: torch.Tensor) -> bytes:
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return raw.numpy().tobytes()


def _bytes(value: Any) -> bytes:
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, bool) or not isinstance(value, int):
        return repr(value).encode()
    return struct.pack("<q", value)


def names_in(state: Any, prefix: str = "") -> Iterator[str]:
    """The names of all leaves of a value, as `compare` calls them."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from names_in(value, f"{prefix}.{key}".lstrip("."))
    else:
        yield prefix
