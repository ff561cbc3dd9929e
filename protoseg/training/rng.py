"""The random number generators of a training: their states, and seeds for several processes."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """The states of all generators, in types that `torch.load` accepts with ``weights_only``."""
    numpy_state = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        # Only of the current GPU: reading the state of another one would allocate memory there.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_position": int(numpy_state["state"]["pos"]),
        "python": list(random.getstate()[1]),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states returned by `get_random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    key = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, state["numpy_position"], 0, 0.0))
    random.setstate((3, tuple(state["python"]), None))


def pack_state(state: dict[str, Any]) -> bytes:
    """Encode a result of `get_random_state` as bytes, to send it to another process."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack_state(data: bytes) -> dict[str, Any]:
    """Decode a result of `pack_state`."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return state


def seed_generators(*numbers: int) -> None:
    """Seed all generators from a combination of numbers, for example the run's seed and a rank."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    torch.manual_seed(int(seeds[2]))
