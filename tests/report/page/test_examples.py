"""Label maps as pictures in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_samples import CLASSES, make_samples, write_samples

from protoseg.report.page.builder import build_page
from protoseg.report.page.examples import BACKGROUND, encode_png, make_examples
from protoseg.runs.results.samples import FILE
from report.lab import Lab, make_matrix, method

COLOURS = [(0, 128, 0), (0, 0, 255)]


def test_pictures_have_the_colours_of_their_classes() -> None:
    labels = np.array([[0, 1, 255], [1, 0, 2]])
    examples = make_examples({"a.png": {"Ground truth": labels}}, ["grass", "sky"], COLOURS)
    assert examples is not None
    assert examples.classes == (("grass", "#008000"), ("sky", "#0000ff"))
    ((picture,),) = (image.pictures for image in examples.images)
    head, _, data = picture.source.partition(",")
    assert head == "data:image/png;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    grass, sky = COLOURS
    assert shown.tolist() == [
        [list(grass), list(sky), list(BACKGROUND)],
        [list(sky), list(grass), list(BACKGROUND)],
    ]
    assert (picture.width, picture.height) == (3, 2)


def test_a_png_is_read_back_by_another_reader() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)
    assert encode_png(pixels) == encode_png(pixels.copy())


def test_without_an_image_there_is_no_section() -> None:
    assert make_examples({}, ["grass", "sky"], COLOURS) is None


def test_a_map_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="label map 'x': shape"):
        make_examples({"a": {"x": np.zeros(3, int)}}, ["grass", "sky"], COLOURS)


def test_a_page_shows_the_samples_of_its_runs(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    planned = []
    for name, miou in (("parametric 1", 60.0), ("prototype 3", 70.0)):
        spec = method(name, 0)
        lab.finish(spec, miou, provenance={"state_sha256": "state"})
        planned.append((spec, {"label": name}))
    matrix = make_matrix(planned, "plain", metrics=("miou",))
    assert build_page(matrix, lab.store, []).examples is None, "no run has samples"
    for run in matrix.runs:
        samples = make_samples(run.run_id, "state", seed=len(run.run_id))
        write_samples(samples, lab.runs / run.run_id / FILE)
    page = build_page(matrix, lab.store, [])
    assert page.examples is not None
    assert [name for name, _ in page.examples.classes] == list(CLASSES)
    for example in page.examples.images:
        labels = [picture.label for picture in example.pictures]
        assert labels[0] == "Ground truth"
        assert [label.split(", mIoU")[0] for label in labels[1:]] == ["parametric 1", "prototype 3"]
    rule, data = page.examples.notes
    assert rule == "Images: random of the 4 sampled ones, seed 0."
    assert data.startswith("Data: camvid, val; seed 0")
    damaged = lab.runs / matrix.runs[0].run_id / FILE
    damaged.write_bytes(damaged.read_bytes()[:100])
    page = build_page(matrix, lab.store, [])
    assert page.examples is None
    assert any("samples" in warning for warning in page.warnings)
