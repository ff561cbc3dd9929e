"""Evaluation equals an oracle that shares only the network, for label maps of every encoding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets.readers.encoders import encode_bmp, encode_png, encode_tiff
from PIL import Image

from protoseg.datasets.check import check_data_set
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.signals import StopRequest
from training.evaluation.pixel_oracle import Window, compute_metrics, predict_classes
from training.small import small_spec

SIZES = ((37, 53), (48, 48), (61, 40), (33, 90))
"""Odd heights and widths."""
PALETTE = bytes([255] * 3 + [0] * 3 + [9] * 42)

ENCODINGS: dict[str, tuple[Any, list[int], dict[str, Any]]] = {
    "grey of 8 bits": (lambda m: encode_png(m, 8), [0, 1, 2, 3], {}),
    "grey of 1 bit": (lambda m: encode_png(m, 1), [0, 1], {}),
    "grey of 2 bits": (lambda m: encode_png(m, 2), [0, 1, 2], {"ignore_index": 3}),
    "grey of 4 bits, interlaced": (
        lambda m: encode_png(m, 4, interlaced=True), [7, 2, 15], {"ignore": (1, 0)}),
    "palette of 4 bits": (lambda m: encode_png(m, 4, PALETTE), [1, 2, 3], {"ignore_index": 0}),
    "grey of 16 bits": (lambda m: encode_png(m, 16), [300, 2, 65535], {"ignore": (4,)}),
    "tiff of 2 bits": (lambda m: encode_tiff(m, 2), [1, 2, 3], {"reduce_zero_label": True}),
    "bmp of 1 bit": (lambda m: encode_bmp(m, 1, bytes([0] * 4 + [255] * 3 + [0])), [0, 1], {}),
}  # fmt: skip
"""Name -> encoder, the label value of each class, and fields of the data set."""
WINDOWS = {"whole": None, "slide": Window(24, 17)}


@pytest.mark.parametrize("mode", WINDOWS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_evaluation_equals_the_oracle(tmp_path: Path, encoding: str, mode: str) -> None:
    encode, values, fields = ENCODINGS[encoding]
    rng = np.random.default_rng(0)
    ignored = [*fields.get("ignore", ()), fields.get("ignore_index", 255)]
    written = [v for v in ignored if v < {"1": 2, "2": 4, "4": 16}.get(encoding.split()[2], 256)]
    written += [0] if fields.get("reduce_zero_label") else []
    suffix = {"tiff": ".tif", "bmp": ".bmp"}.get(encoding.split()[0], ".png")
    photographs, truths = [], []
    for folder in ("images", "annotations"):
        (tmp_path / folder / "val").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        truth = rng.choice([*values, *(written if "bmp" not in encoding else [])], (height, width))
        Image.fromarray(rgb).save(tmp_path / f"images/val/{number}.png")
        (tmp_path / f"annotations/val/{number}{suffix}").write_bytes(encode(truth))
        photographs.append(rgb)
        truths.append(truth)

    window = WINDOWS[mode]
    overrides = () if window is None else (
        "evaluation.mode=slide", f"evaluation.crop_size=[{window.side},{window.side}]",
        f"evaluation.stride=[{window.stride},{window.stride}]",
    )  # fmt: skip
    spec = small_spec(*overrides)
    labels = {} if fields.get("reduce_zero_label") else {"labels": tuple(values)}
    dataset = dataclasses.replace(
        spec.dataset, name="oracle", generator={}, counts={}, digest="unpinned", train_split="val",
        classes=tuple(f"c{v}" for v in values), annotation_suffix=suffix, **fields, **labels,
    )  # fmt: skip
    spec = dataclasses.replace(spec, dataset=dataset)
    check_data_set(tmp_path, dataset)
    parts = build_components(build_config(spec, data_root=tmp_path), None)
    torch.manual_seed(1)
    for parameter in parts.module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    overall, per_class, _, images = evaluate(parts, spec, StopRequest())

    network = parts.module.cpu().eval()
    guesses = [predict_classes(network, rgb, window) for rgb in photographs]
    assert len({int(value) for guess in guesses for value in np.unique(guess)}) > 1
    miou, expected = compute_metrics(truths, guesses, values)
    assert images == len(SIZES)
    assert [row["pixels"] for row in per_class] == [pixels for _, pixels in expected]
    assert [row["iou"] for row in per_class] == pytest.approx([iou for iou, _ in expected])
    assert overall["miou"] == pytest.approx(miou)
