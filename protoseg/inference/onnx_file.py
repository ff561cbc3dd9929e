"""Writes the network of a run as ONNX, and compares it with torch in onnxruntime.

Input ``image``: (1, 3, height, width) float32, red first, 0 to 255; the network normalises it.
Outputs: ``labels``, (1, height, width) int64, the class with the highest score of each pixel; and
``scores``, (1, C, height, width) float32.

The file is written by torch's exporter of traced graphs, which takes seconds. The other one
(``dynamo``) takes ten times as long, needs onnxscript, and supports the same decoders.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg import files
from protoseg.config.methods import ParametricMethod, PrototypeMethod
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.training.builders.config import first_line

Size = tuple[int, int]
"""Height and width in pixels."""
METHODS = (ParametricMethod, PrototypeMethod)
TRACED_SIZE: Size = (97, 129)
"""Size of the image that the graph is traced with if it may have any size."""
OTHER_SIZE: Size = (161, 97)
"""Second size on which the two networks are compared. Both are multiples of 32 plus 1, as mmseg
warns of other sizes where corners are aligned."""
NEAR_TIE = 1e-5
"""Pixels whose two best scores differ by less than this part of the largest score may get either of
the two classes: the kernels of torch and onnxruntime sum in different orders."""


class LabelingNetwork(nn.Module):
    """Normalisation, network, upsampling of the scores and argmax, as one graph.

    Args:
        network: an mmseg segmentor.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        preprocessor = network.data_preprocessor
        self.is_red_first: bool = preprocessor._channel_conversion
        """Whether the network reads red first; its preparation then swaps OpenCV's channels."""
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        if preprocessor._enable_normalize:
            self.mean, self.std = preprocessor.mean.clone(), preprocessor.std.clone()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict labels (1, H, W) and scores (1, C, H, W) of an image (1, 3, H, W), red first."""
        inputs = image if self.is_red_first else image.flip(1)
        if self.mean is not None and self.std is not None:
            inputs = (inputs - self.mean) / self.std
        scores = self.network.decode_head(self.network.extract_feat(inputs))
        scores = F.interpolate(
            scores, image.shape[2:], mode="bilinear", align_corners=self.network.align_corners
        )
        return scores.argmax(1), scores


def check_onnx(spec: RunSpec) -> None:
    """Check that a run can be exported as ONNX and that onnxruntime is installed.

    Raises:
        UsageError: another method, an evaluation with a sliding window, or no onnxruntime.
    """
    if not isinstance(spec.method, METHODS):
        raise UsageError(
            f"method {spec.method.kind}: has no ONNX export. Methods with one: "
            f"{', '.join(method.kind for method in METHODS)}. Export it without --onnx."
        )
    if spec.evaluation.mode != "whole":
        raise UsageError(
            f"evaluation.mode={spec.evaluation.mode}: its scores are sums over windows, which an "
            "ONNX file does not compute. Export it without --onnx."
        )
    try:
        import onnx  # noqa: F401  torch's exporter needs it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--onnx: the packages onnx and onnxruntime are not installed. Install them, or export "
            "without --onnx."
        ) from error


def write_onnx(network: Any, path: Path, size: Size | None = None) -> dict[str, Any]:
    """Write a network as ONNX after its label maps are compared with torch's.

    Args:
        network: an mmseg segmentor on the CPU, in evaluation mode.
        path: of the file.
        size: size of all images; None for any size.

    Returns:
        ``size``, and of the comparison ``pixels`` and ``differing``, the near ties with another
        class.

    Raises:
        UsageError: torch cannot export the network, or its labels differ.
    """
    labeling = LabelingNetwork(network).eval()
    sizes = [TRACED_SIZE, OTHER_SIZE] if size is None else [size]
    advice = (
        "Give the size of your images, e.g. --onnx 512x512."
        if size is None
        else "Export it without --onnx."
    )
    try:
        content = _trace(labeling, sizes[0], is_dynamic=size is None)
        pixels, differing, wrong = compare_labels(labeling, content, sizes)
    except Exception as error:  # torch and onnxruntime have errors of many types
        raise UsageError(
            f"--onnx: {type(network.decode_head).__name__} cannot be exported for "
            f"{'images of any size' if size is None else f'{size[0]}x{size[1]} pixels'} "
            f"({type(error).__name__}: {first_line(error)[:100]}). {advice}"
        ) from error
    if wrong:
        raise UsageError(
            f"--onnx: onnxruntime gives {wrong} of {pixels} pixels of a random image another class "
            f"than torch. {advice}"
        )
    files.write_bytes(path, content)
    return {
        "size": list(size) if size is not None else "any",
        "pixels": pixels,
        "differing": differing,
    }


def compare_labels(
    labeling: LabelingNetwork, content: bytes, sizes: Sequence[Size]
) -> tuple[int, int, int]:
    """Compare the labels of an ONNX file in onnxruntime with torch's, on random images.

    Returns:
        Number of pixels; of those with another class; and of those among them that are no near
        ties.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    pixels = differing = wrong = 0
    for size in sizes:
        image = torch.rand(1, 3, *size, generator=generator) * 255
        with torch.no_grad():
            labels, scores = labeling(image)
        (theirs,) = session.run(["labels"], {"image": image.numpy()})
        differs = torch.from_numpy(theirs) != labels
        best = scores.topk(2, 1).values
        is_tie = best[:, 0] - best[:, 1] <= NEAR_TIE * scores.abs().max()
        pixels += labels.numel()
        differing += int(differs.sum())
        wrong += int((differs & ~is_tie).sum())
    return pixels, differing, wrong


def _trace(labeling: LabelingNetwork, size: Size, is_dynamic: bool) -> bytes:
    buffer = io.BytesIO()
    axes = {2: "height", 3: "width"}
    names = {"image": axes, "scores": axes, "labels": {1: "height", 2: "width"}}
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, and that dynamo is the default
        torch.onnx.export(
            labeling,
            (image,),
            buffer,  # type: ignore[arg-type]  # a file is allowed with dynamo=False
            dynamo=False,
            input_names=["image"],
            output_names=["labels", "scores"],
            dynamic_axes=names if is_dynamic else None,
        )
    return buffer.getvalue()
