"""The levels of determinism, and the digest of a trained model's state.

``seeded`` fixes the seeds and the order of the images, and lets torch use its fastest kernels. On a
GPU some of these kernels sum in an order that changes between calls; ``bitwise`` refuses them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from protoseg.errors import UsageError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_CONFIGS = (":4096:8", ":16:8")
"""Workspace settings with which cuBLAS sums in a fixed order; the first one is faster."""
REFUSED = re.compile(r"^(\S+) does not have a deterministic implementation")
"""torch's error for an operation that has no deterministic kernel on the current device."""


def apply_level(level: str) -> None:
    """Configure torch for a level; call it before CUDA is initialised.

    Args:
        level: ``seeded``, which changes nothing, or ``bitwise``.

    Raises:
        UsageError: the environment sets a cuBLAS workspace without a fixed order.
    """
    if level != "bitwise":
        return
    config = os.environ.setdefault(CUBLAS, CUBLAS_CONFIGS[0])
    if config not in CUBLAS_CONFIGS:
        raise UsageError(
            f"{CUBLAS}: '{config}' in the environment lets cuBLAS sum in any order, which "
            "determinism=bitwise does not allow. Leave the variable unset, or set it to "
            f"{' or '.join(CUBLAS_CONFIGS)}."
        )
    torch.use_deterministic_algorithms(True)
    # Filling each new tensor helps to find errors, and takes 10% of an iteration.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def use_level(level: str) -> Iterator[None]:
    """Configure torch for a level, and restore the earlier settings at the end.

    The settings are those of the process: other threads have them meanwhile. cuBLAS reads its
    workspace setting once in a process, at its first use.

    Args:
        level: as for `apply_level`.

    Raises:
        UsageError: as `apply_level`.
    """
    cublas = os.environ.get(CUBLAS)
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    backends = (
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        *((torch.backends.cudnn, name) for name in ("deterministic", "benchmark", "allow_tf32")),
        (torch.backends.cuda.matmul, "allow_tf32"),
    )
    values = [getattr(module, name) for module, name in backends]
    try:
        apply_level(level)
        yield
    except RuntimeError as error:
        if message := describe_refusal(error):
            raise UsageError(message) from error
        raise
    finally:
        if level == "bitwise":
            torch.use_deterministic_algorithms(is_deterministic, warn_only=warn_only)
            for (module, name), value in zip(backends, values, strict=True):
                setattr(module, name, value)
            if cublas is None:
                os.environ.pop(CUBLAS, None)


def describe_refusal(error: BaseException) -> str | None:
    """The message for an operation that ``bitwise`` refuses; None for any other error."""
    if isinstance(error, RuntimeError) and CUBLAS in str(error):
        return (
            "determinism: cuBLAS was used in this process without a fixed order of summation. Set "
            f"{CUBLAS}={CUBLAS_CONFIGS[0]} in the environment, and run this again."
        )
    match = REFUSED.match(str(error)) if isinstance(error, RuntimeError) else None
    if match is None:
        return None
    device = "a GPU" if torch.cuda.is_available() else "this device"
    return (
        f"determinism: torch has no deterministic kernel of {match[1]} on {device}. Train with "
        "determinism=seeded, or with a backbone, decoder or method that does not use it."
    )


def hash_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's state: name, dtype, shape and bits of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
