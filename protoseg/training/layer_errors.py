"""Names the layer that cannot compute with the shape of its input, and what to change.

A layer refuses its input in the first forward pass, before anything is trained. PyTorch's message
has neither the layer nor the setting that decides the shape.
"""

from __future__ import annotations

import re
from types import TracebackType

from torch import nn

ONE_VALUE = re.compile(
    r"Expected more than 1 (?:value per channel|spatial element) when training, "
    r"got input size (?:torch\.Size\()?\[([\d, ]+)\]"
)
"""Normalisation of one value, whose variance is 0."""

TOO_SMALL = re.compile(
    r"Calculated (?:padded input|output|input) size|Kernel size can.t be greater than|"
    r"Output size is too small|Padding size should be less than|"
    r"non-empty 3D or 4D|Input and output sizes should be greater than 0|"
    r"non-zero size for non-batch dimension"
)
"""Feature maps that are smaller than the window of a layer, or empty."""


def describe_shape_error(error: BaseException) -> str | None:
    """Describe an error about the shape of a layer's input; None for any other error."""
    text = str(error)
    one_value = ONE_VALUE.search(text)
    if not one_value and not (isinstance(error, RuntimeError) and TOO_SMALL.search(text)):
        return None
    layer = _find_layer(error.__traceback__)
    if layer is None:
        return None
    if one_value:
        shape = one_value[1].replace(", ", "×")
        return (
            f"{layer}: cannot normalise one value per channel (its input is {shape}). Set "
            "schedule.batch_size to at least 2 images per process, or use a decoder without "
            "pooling to one value."
        )
    reason = text.splitlines()[0].rstrip(".")
    return (
        f"{layer}: its input is too small ({reason}). Increase augmentation.crop_size for "
        "training, or evaluation.scale and evaluation.crop_size for evaluation."
    )


def _find_layer(traceback: TracebackType | None) -> str | None:
    """The name and type of the innermost module that a traceback passes through."""
    modules: list[nn.Module] = []
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            modules.append(owner)
        traceback = traceback.tb_next
    if not modules:
        return None
    names = {id(module): name for name, module in modules[0].named_modules()}
    name = names.get(id(modules[-1]), "")
    return f"{name or 'model'} ({type(modules[-1]).__name__})"
