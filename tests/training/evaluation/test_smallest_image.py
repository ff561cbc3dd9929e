"""The smallest image of the evaluated split is predicted before the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation import smallest_image
from protoseg.training.evaluation.smallest_image import SAFE_SIDE, find_smallest_image
from protoseg.training.machine.determinism import hash_state
from training.small import small_spec


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ((), (1, 30)),
        ((400, 200), (2, 20)),  # 400×100 -> 400×100, 60×30 -> 400×200, 1000×50 -> 400×20
    ],
)
def test_the_shortest_side_after_the_resize_is_found(
    tmp_path: Path, scale: tuple[int, ...], expected: tuple[int, int]
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, size in zip(paths, [(400, 100), (60, 30), (1000, 50)], strict=False):
        Image.new("RGB", size).save(path)
    paths[3].write_bytes(b"damaged")
    assert find_smallest_image(paths, scale) == expected


def test_without_a_readable_image_nothing_is_predicted(tmp_path: Path) -> None:
    assert find_smallest_image([tmp_path / "missing.png"], ()) == (0, SAFE_SIDE)


@pytest.mark.parametrize("limit", [SAFE_SIDE, 48])
def test_the_prediction_changes_nothing(
    shapes_root: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    parts = build_components(
        build_config(small_spec("dataset.digest=unpinned"), data_root=shapes_root), None
    )
    predicted = []
    test_step = parts.model.test_step
    monkeypatch.setattr(parts.model, "test_step", lambda b: predicted.append(b) or test_step(b))
    monkeypatch.setattr(smallest_image, "SAFE_SIDE", limit)
    parts.model.train()
    before = hash_state(parts.model.state_dict()), torch.get_rng_state().tolist()
    smallest_image.predict_smallest_image(parts, ())
    assert len(predicted) == (limit > 48)
    assert before == (hash_state(parts.model.state_dict()), torch.get_rng_state().tolist())
    assert parts.model.training
