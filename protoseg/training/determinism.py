"""The levels of determinism: what ``bitwise`` sets, and the digest of what a training ended with.

``seeded`` fixes the seeds and the order of the images, and leaves torch its fastest kernels. On a
GPU some of those sum in an order that changes from call to call; ``bitwise`` refuses them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from protoseg.errors import UsageError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_CONFIGS = (":4096:8", ":16:8")
"""Work spaces with which cuBLAS sums in one order; the first one is the faster."""
REFUSED = re.compile(r"^(\S+) does not have a deterministic implementation")
"""How torch says that an operation has no kernel of a fixed order on the device at hand."""


def apply(level: str) -> None:
    """Set torch up for a level, before CUDA starts; ``seeded`` changes nothing.

    Raises:
        UsageError: the environment asks cuBLAS for a work space without a fixed order.
    """
    if level != "bitwise":
        return
    given = os.environ.setdefault(CUBLAS, CUBLAS_CONFIGS[0])
    if given not in CUBLAS_CONFIGS:
        raise UsageError(
            f"{CUBLAS}: '{given}' in the environment lets cuBLAS sum in any order, and the run is "
            f"determinism=bitwise; leave it unset, or set it to {' or '.join(CUBLAS_CONFIGS)}."
        )
    torch.use_deterministic_algorithms(True)
    # Filling each new tensor before it is written finds errors and costs a tenth of an iteration.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def refusal(error: BaseException) -> str | None:
    """The sentence for an operation that ``bitwise`` can not have; None for any other error."""
    found = REFUSED.match(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    device = "a GPU" if torch.cuda.is_available() else "this device"
    return (
        f"determinism: torch has no form of {found[1]} with a fixed order on {device}; train with "
        "determinism=seeded, or with a backbone, decoder or method that does without it."
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's state: name, type, shape and bits of every tensor, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
