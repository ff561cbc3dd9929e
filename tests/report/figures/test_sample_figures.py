"""Figures of samples: what they show, by which rule, and what they refuse."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic_samples import make_samples, write_samples

from protoseg.config.class_colors import SAFE_COLORS, list_safe_colors
from protoseg.config.matrix import Matrix
from protoseg.datasets.readers.photographs import read_photograph
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.figures import save
from protoseg.report.figures.builder import OF_SAMPLES, FigureBuilder
from protoseg.report.figures.contents import Figure, read_digest
from protoseg.report.figures.samples.colours import (
    choose_colours,
    list_prototype_colours,
)
from protoseg.report.figures.samples.confusion import divide_rows
from protoseg.report.figures.samples.image_plots import FAINT, OPAQUE, overlay_prototypes
from protoseg.report.figures.samples.pictures import MISSING, Pictures, PictureSource
from protoseg.report.figures.samples.plots import (
    MARK,
    PROJECTIONS,
    ConfusionPlot,
    DisagreementPlot,
    EmbeddingPlot,
    ExamplePlot,
    PrototypePanel,
    PrototypePlot,
    SampleOptions,
    read_options,
)
from protoseg.report.figures.samples.regions import compare_predictions, find_boxes
from protoseg.report.verify.figures import check_figures
from protoseg.report.verify.record_sources import Sources
from protoseg.runs.results.samples import Samples, pack_arrays
from report.lab import Lab, method, methods_matrix

STATE = "s" * 64
ROWS = ("parametric 1", "prototype 3")
HEIGHT, WIDTH = 30, 40


@pytest.fixture
def matrix(lab: Lab) -> Matrix:
    """Two finished rows with samples in their run folders."""
    for number, row in enumerate(ROWS):
        finish_row(lab, row, 0 if row.startswith("param") else 3, seed=number)
    return methods_matrix(ROWS, [0])


def finish_row(lab: Lab, row: str, prototypes: int, **options: Any) -> Samples:
    """Write record, counts and samples of a run."""
    spec = method(row)
    random = np.random.RandomState(options.get("seed", 0))
    counts = pack_arrays(
        {
            "image": np.zeros(9, np.int32),
            "cell": np.arange(9, dtype=np.int32),
            "count": random.randint(1, 50, 9).astype(np.int32),
            "num_classes": np.int64(3),
            "num_images": np.int64(1),
        }
    )
    path = lab.finish(
        spec,
        50.0,
        in_runs=True,
        provenance={"state_sha256": STATE},
        confusion={"file": "confusion.npz", "sha256": hashlib.sha256(counts).hexdigest()},
    )
    path.with_name("confusion.npz").write_bytes(counts)
    run = path.parent.name
    samples = make_samples(run, STATE, prototypes=prototypes, size=(HEIGHT, WIDTH), **options)
    write_samples(samples, path.with_name("samples.npz"))
    return samples


def build(lab: Lab, matrix: Matrix, figure_type: str, **options: Any) -> Figure:
    builder = FigureBuilder(matrix, lab.store, [lab.published])
    return builder.build(figure_type, SampleOptions(**options))


def write_pictures(folder: Path, number: int = 4) -> None:
    (folder / "camvid" / "images" / "val").mkdir(parents=True)
    for i in range(number):
        pixels = np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8)
        Image.fromarray(pixels).save(folder / "camvid" / "images" / "val" / f"{i:03}.png")


def list_images(canvas: Any, gid: str) -> list[np.ndarray]:
    """The drawn images with this gid, in all axes."""
    axes = canvas.get_axes()
    for part in canvas.subfigs:
        axes = [*axes, *part.get_axes(), *(a for p in part.subfigs for a in p.get_axes())]
    images = [image for each in axes for image in each.images if image.get_gid() == gid]
    return [np.asarray(image.get_array()) for image in dict.fromkeys(images)]


def find_pictures(data: Path) -> PictureSource:
    return PictureSource(data, read_photograph)


def draw(figure: Figure, data: Path | None = None) -> Any:
    with save.figure_style():
        return save.draw_figure(figure, data and find_pictures(data))


def search_regions(mask: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """(pixels, box) of the connected regions of a mask, by a search from pixel to pixel."""
    left = set(zip(*(each.tolist() for each in np.nonzero(mask)), strict=True))
    regions = []
    while left:
        waiting, region = [left.pop()], []
        while waiting:
            row, column = waiting.pop()
            region.append((row, column))
            for other in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if other in left:
                    left.remove(other)
                    waiting.append(other)
        rows, columns = zip(*region, strict=True)
        box = (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
        regions.append((len(region), box))
    return sorted(regions, key=lambda region: (-region[0], region[1]))


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_a_search_from_pixel_to_pixel(seed: int) -> None:
    mask = np.random.RandomState(seed).rand(20, 25) < 0.4
    expected = [box for pixels, box in search_regions(mask) if pixels >= 0.01 * mask.size]
    assert find_boxes(mask, 4, 0.01) == tuple(expected[:4])
    assert find_boxes(mask, 1000, 0) == tuple(box for _, box in search_regions(mask))
    assert find_boxes(np.zeros((4, 4), bool)) == ()
    assert find_boxes(np.ones((4, 4), bool)) == ((0, 0, 4, 4),)


def test_pixels_where_one_alone_is_right_are_counted_one_by_one() -> None:
    random = np.random.RandomState(0)
    truth, first, second = (random.randint(0, 3, (9, 9)) for _ in range(3))
    truth[0] = 255
    gain, loss = compare_predictions(truth, first, second, 255)
    for at in itertools.product(range(9), range(9)):
        a, b = first[at] == truth[at], second[at] == truth[at]
        assert gain[at] == (truth[at] != 255 and b and not a)
        assert loss[at] == (truth[at] != 255 and a and not b)


def test_examples_show_the_label_maps_of_each_row(lab: Lab, matrix: Matrix, tmp_path: Path) -> None:
    write_pictures(tmp_path)
    figure = build(lab, matrix, "examples", images=2)
    content = figure.content
    assert isinstance(content, ExamplePlot)
    assert content.rows == ROWS
    order = np.random.RandomState(0).permutation(4)[:2]
    assert [image.name for image in content.images] == [f"images/val/{i:03}.png" for i in order]
    samples = [make_samples(prototypes=p, seed=s, size=(30, 40)) for s, p in ((0, 0), (1, 3))]
    for image, i in zip(content.images, order, strict=True):
        for row in range(2):
            np.testing.assert_array_equal(
                image.predictions[row], samples[row].maps["prediction"][i]
            )
            assert image.mious[row] == round(samples[row].arrays["image_miou"][i], 2)
    canvas = draw(figure, tmp_path)
    pictures = list_images(canvas, "picture")
    assert [int(picture[0, 0, 0]) for picture in pictures] == [10 * i for i in order]
    labels = list_images(canvas, "labels")
    assert len(labels) == 6
    assert labels[0][0, 0].tolist() == [0, 0, 0]  # ignored
    expected = np.array([*list_safe_colors(3)])[content.images[0].predictions[0]]
    np.testing.assert_array_equal(labels[1], expected)
    assert not list_images(canvas, "missing")


def test_pictures_that_are_not_here_are_grey_and_named(
    lab: Lab, matrix: Matrix, tmp_path: Path
) -> None:
    figure = build(lab, matrix, "examples")
    for data in (None, tmp_path / "nowhere"):
        canvas = draw(figure, data)
        assert len(list_images(canvas, "missing")) == 3
        assert not list_images(canvas, "picture")
        note = " ".join(canvas.get_supxlabel().split())
        where = "were not read" if data is None else "are not in camvid"
        assert f"Grey: {MISSING} (3 pictures {where}; name the data with --data)." in note
    assert MISSING not in " ".join(figure.notes)  # the digest needs no data


@pytest.mark.parametrize("rule", ["worst", "best"])
def test_worst_and_best_images_are_chosen_by_mean_miou(rule: str, lab: Lab, matrix: Matrix) -> None:
    figure = build(lab, matrix, "examples", choose=rule, images=2)
    assert isinstance(figure.content, ExamplePlot)
    mious = [make_samples(prototypes=p, seed=s).arrays["image_miou"] for s, p in ((0, 0), (1, 3))]
    means = {f"images/val/{i:03}.png": (mious[0][i] + mious[1][i]) / 2 for i in range(4)}
    ranked = sorted(means, key=lambda name: means[name], reverse=rule == "best")
    assert [image.name for image in figure.content.images] == ranked[:2]
    assert ("lowest" if rule == "worst" else "highest") in " ".join(figure.notes)


def test_disagreement_counts_pixels_and_frames_regions(lab: Lab, matrix: Matrix) -> None:
    figure = build(lab, matrix, "disagreement", images=1)
    content = figure.content
    assert isinstance(content, DisagreementPlot)
    a, b = (make_samples(prototypes=p, seed=s).maps for s, p in ((0, 0), (1, 3)))
    inside = [t != 255 for t in a["truth"]]
    shares = [
        ((x != y) & i).sum() / i.sum()
        for x, y, i in zip(a["prediction"], b["prediction"], inside, strict=True)
    ]
    best = int(np.argmax(shares))
    assert content.images[0].name == f"images/val/{best:03}.png"
    truth, x, y = a["truth"][best], a["prediction"][best], b["prediction"][best]
    gain = inside[best] & (y == truth) & (x != truth)
    loss = inside[best] & (x == truth) & (y != truth)
    total = inside[best].sum()
    note = " ".join(figure.notes)
    assert f"B alone is right for {100 * gain.sum() / total:.1f}% of the pixels" in note
    assert f"A alone for {100 * loss.sum() / total:.1f}%" in note
    expected = [box for n, box in search_regions(gain) if n >= 0.002 * gain.size][:3]
    assert content.images[0].boxes == tuple(expected)
    reverse = build(lab, matrix, "disagreement", images=1, rows=(ROWS[1], ROWS[0]))
    assert isinstance(reverse.content, DisagreementPlot)
    expected = [box for n, box in search_regions(loss) if n >= 0.002 * gain.size][:3]
    assert reverse.content.images[0].boxes == tuple(expected)
    assert len(draw(figure).axes[2].patches) == 2 * len(content.images[0].boxes)


def test_prototypes_show_the_closest_one_of_the_class(
    lab: Lab, matrix: Matrix, tmp_path: Path
) -> None:
    write_pictures(tmp_path)
    figure = build(lab, matrix, "prototypes", classes=("car", "sky"))
    content = figure.content
    assert isinstance(content, PrototypePlot)
    assert [panel.label for panel in content.panels] == ["car", "sky"]
    samples = make_samples(prototypes=3, seed=1)
    panel = content.panels[0]
    position = int(panel.image[-7:-4])
    closest = samples.maps["closest"][position].astype(int)
    expected = np.where(closest // 3 == 2, closest % 3, -1)
    np.testing.assert_array_equal(panel.closest, expected)
    assert panel.pixels == tuple(samples.arrays["prototype_pixels"][2])
    assert [len(patches) for patches in panel.patches] == [5, 5, 5]
    image, row, column = samples.arrays["nearest"][2, 1, 0]
    patch = panel.patches[1][0]
    assert (patch.name, patch.row, patch.column) == (f"images/val/{image:03}.png", row, column)
    canvas = draw(figure, tmp_path)
    assert len(list_images(canvas, "patch")) == 2 * 15
    assert len(list_images(canvas, "overlay")) == 2
    assert "red, green and blue" in " ".join(figure.notes)


def test_an_overlay_has_the_colour_and_opacity_of_each_pixel() -> None:
    colours, _ = list_prototype_colours(3)
    closest = np.array([[0, 1], [2, -1]], np.int16)
    similarity = np.array([[0.2, 0.4], [0.6, 0.9]])
    panel = PrototypePanel("car", "x", (2, 2), closest, similarity, (1, 1, 1), ((), (), ()))
    drawn = overlay_prototypes(np.full((2, 2, 3), 100, np.uint8), panel, colours)
    middle = (FAINT + OPAQUE) / 2
    for at, alpha, k in (((0, 0), FAINT, 0), ((0, 1), middle, 1), ((1, 0), OPAQUE, 2)):
        expected = [(1 - alpha) * 100 + alpha * channel for channel in colours[k]]
        np.testing.assert_allclose(drawn[at], expected, atol=0.51)
    assert drawn[1, 1].tolist() == [100, 100, 100]


def test_a_patch_is_cut_around_its_pixel(tmp_path: Path) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(100)[:, None], np.arange(200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pictures = Pictures(find_pictures(tmp_path))
    patch = pictures.cut_patch("a.png", (50, 120), 0.2)
    assert patch is not None
    np.testing.assert_array_equal(patch, pixels[40:60, 110:130])
    patch = pictures.cut_patch("a.png", (0, 199), 0.2)  # moved inside
    np.testing.assert_array_equal(patch, pixels[:20, 180:])
    assert pictures.cut_patch("b.png", (0, 0), 0.2) is None
    assert list(pictures.lost) == ["b.png"]
    (tmp_path / "c.png").write_bytes(b"no image")
    assert pictures.read_picture("c.png") is None


def test_embeddings_have_the_points_and_the_most_frequent_prototypes(
    lab: Lab, matrix: Matrix
) -> None:
    figure = build(lab, matrix, "embeddings", classes=("road", "car"))
    content = figure.content
    assert isinstance(content, EmbeddingPlot)
    assert content.names == ("road", "car")
    parametric, prototype = content.panels
    assert len(parametric.points) == len(prototype.points) == 40
    assert parametric.prototypes.shape[0] == 0
    assert prototype.prototypes.shape == (4, 8)
    assert prototype.prototype_classes.tolist() == [0, 0, 1, 1]
    assert prototype.classes.tolist() == [0] * 20 + [1] * 20


@pytest.mark.slow
@pytest.mark.parametrize(("projection", "package"), [("tsne", "sklearn"), ("umap", "umap")])
def test_embeddings_are_drawn_alike_twice(
    lab: Lab, matrix: Matrix, projection: str, package: str
) -> None:
    pytest.importorskip(package)
    figure = build(lab, matrix, "embeddings", projection=projection)
    assert f"then {PROJECTIONS[projection]} (seed 0)" in figure.notes[0]
    first, second = draw(figure), draw(figure)
    for one, other in zip(first.axes, second.axes, strict=True):
        for a, b in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
    drawn = [line for line in first.axes[0].lines if line.get_gid().startswith("pixels")]
    assert sum(len(line.get_xdata()) for line in drawn) == 60


@pytest.mark.parametrize(
    ("projection", "module", "extra"),
    [("tsne", "sklearn.manifold", "figures"), ("umap", "umap", "umap")],
)
def test_a_missing_projection_names_its_package(
    lab: Lab,
    matrix: Matrix,
    monkeypatch: pytest.MonkeyPatch,
    projection: str,
    module: str,
    extra: str,
) -> None:
    figure = build(lab, matrix, "embeddings", projection=projection)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'protoseg\[{extra}\]'"):
        draw(figure)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_projection_is_kept_in_the_options_of_a_figure(projection: str) -> None:
    options = SampleOptions(seed=3, projection=projection)
    assert read_options(f"{MARK}{options.encode()}".encode()) == options
    assert options.list_arguments() == (
        " --seed 3" if projection == "tsne" else " --seed 3 --projection umap"
    )
    assert (
        SampleOptions().encode()
        == "eyJjaG9vc2UiOiIiLCJjbGFzc2VzIjpbXSwiaW1hZ2VzIjowLCJyb3dzIjpbXSwic2VlZCI6MH0"
    )


def test_confusion_divides_the_counts_of_all_seeds(lab: Lab, matrix: Matrix) -> None:
    figure = build(lab, matrix, "confusion")
    assert isinstance(figure.content, ConfusionPlot)
    for number, panel in enumerate(figure.content.panels):
        counts = np.random.RandomState(number).randint(1, 50, 9).reshape(3, 3)
        expected = 100 * counts / counts.sum(1, keepdims=True)
        np.testing.assert_allclose(panel.shares, expected, atol=6e-4)
    (image,) = list_images(draw(build(lab, matrix, "confusion", rows=ROWS[:1])), "matrix")
    np.testing.assert_allclose(image, figure.content.panels[0].shares)
    assert divide_rows(np.array([[0, 0], [1, 3]])) == ((None, None), (25.0, 75.0))


def test_changed_counts_are_refused(lab: Lab, matrix: Matrix) -> None:
    path = next(lab.runs.glob("*parametric*")) / "confusion.npz"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ProtosegError, match="do not match the record's digest"):
        build(lab, matrix, "confusion")


@pytest.mark.parametrize(
    ("figure_type", "options", "message"),
    [
        ("examples", {"rows": ("parametric 2",)}, "unknown row 'parametric 2'. Did you mean"),
        ("examples", {"images": 5}, "share 4 images. Name a number from 1 to 4"),
        ("examples", {"images": 13}, "--images: 13 is out of range. Name 1 to 12"),
        ("examples", {"choose": "prettiest"}, "unknown rule 'prettiest'. Known: best, disag"),
        ("examples", {"choose": "disagreement", "rows": ROWS[:1]}, "compares rows, but there is"),
        ("disagreement", {"rows": ROWS[:1]}, "compares two rows, but there are 1"),
        ("prototypes", {"rows": ROWS[:1]}, "no row with samples has prototypes"),
        ("prototypes", {"rows": ROWS}, "shows one row"),
        ("prototypes", {"classes": ("cat",)}, "unknown class 'cat'.*Known: sky, road, car"),
        ("embeddings", {"classes": ("cat",)}, "unknown class 'cat'"),
        ("confusion", {"rows": ("x",)}, "unknown row 'x'"),
    ],
)
def test_bad_options_are_refused(
    figure_type: str, options: dict[str, Any], message: str, lab: Lab, matrix: Matrix
) -> None:
    with pytest.raises(UsageError, match=message):
        build(lab, matrix, figure_type, **options)


def test_more_than_ten_prototypes_are_refused(lab: Lab) -> None:
    finish_row(lab, "prototype 11", 11)
    with pytest.raises(UsageError, match=r"has 11 prototypes a class\. Allowed: 1 to 10"):
        build(lab, methods_matrix(["prototype 11"], [0]), "prototypes")


def test_ten_prototypes_have_ten_colours(lab: Lab) -> None:
    finish_row(lab, "prototype 10", 10)
    figure = build(lab, methods_matrix(["prototype 10"], [0]), "prototypes")
    assert isinstance(figure.content, PrototypePlot)
    assert len(set(figure.content.colours)) == 10
    assert "safe for colour-blind readers" in " ".join(figure.notes)
    draw(figure)


def test_missing_samples_name_the_command_that_makes_them(lab: Lab, matrix: Matrix) -> None:
    for path in lab.runs.glob("*prototype*/samples.npz"):
        path.unlink()
    figure = build(lab, matrix, "examples")  # of the other row, and the note names this one
    assert isinstance(figure.content, ExamplePlot)
    assert figure.content.rows == ROWS[:1]
    assert "Missing: prototype 3 (no samples)." in " ".join(figure.notes)
    with pytest.raises(ProtosegError, match=r"no samples of 'prototype 3'.*protoseg samples test"):
        build(lab, matrix, "examples", rows=ROWS[1:])
    with pytest.raises(ProtosegError, match="Make them where the checkpoints are"):
        build(lab, methods_matrix(ROWS[1:], [0]), "examples")


def test_samples_of_another_model_are_not_drawn(lab: Lab, matrix: Matrix) -> None:
    path = next(lab.runs.glob("*prototype*/samples.npz"))
    write_samples(make_samples(path.parent.name, "other"), path)
    with pytest.raises(ProtosegError, match="of another model than the record"):
        build(lab, matrix, "examples")


def test_rows_with_other_images_or_labels_are_refused(lab: Lab, matrix: Matrix) -> None:
    path = next(lab.runs.glob("*prototype*/samples.npz"))
    samples = make_samples(path.parent.name, STATE)
    samples.maps["truth"][0][5, 5] ^= 1
    write_samples(samples, path)
    with pytest.raises(UsageError, match=r"have another ground truth of images/val/000\.png"):
        build(lab, matrix, "examples")
    write_samples(make_samples(path.parent.name, STATE, folder="other"), path)
    with pytest.raises(UsageError, match="evaluated on different data"):
        build(lab, matrix, "examples")


def test_options_are_read_back_from_each_format(lab: Lab, matrix: Matrix, tmp_path: Path) -> None:
    options = SampleOptions("worst", 3, 2, (ROWS[1], ROWS[0]), ())
    builder = FigureBuilder(matrix, lab.store, [lab.published])
    figure = builder.build("examples", options)
    for name, content in save.render_files(figure, find_pictures(tmp_path)).items():
        assert read_options(content) == options, name
        assert read_digest(content) == figure.digest
    assert read_options(b"none") == SampleOptions()
    assert read_options(b"protoseg-options:abc") == SampleOptions()
    expected = " --choose worst --seed 3 --images 2 --row 'prototype 3' --row 'parametric 1'"
    assert options.list_arguments() == expected


@pytest.mark.parametrize("figure_type", [*OF_SAMPLES])
def test_a_figure_is_plain_data_and_depends_on_its_samples(
    figure_type: str, lab: Lab, matrix: Matrix
) -> None:
    figure = build(lab, matrix, figure_type)
    json.dumps(figure.to_dict())
    assert figure.digest == build(lab, matrix, figure_type).digest
    if figure_type != "confusion":
        path = next(lab.runs.glob("*prototype*/samples.npz"))
        write_samples(make_samples(path.parent.name, STATE, seed=7), path)
        assert figure.digest != build(lab, matrix, figure_type).digest


def test_a_figure_with_pictures_is_not_replaced_by_one_without(
    lab: Lab, matrix: Matrix, tmp_path: Path
) -> None:
    write_pictures(tmp_path)
    figure, folder = build(lab, matrix, "examples"), tmp_path / "figures"
    paths = save.write_figure_files(figure, folder, find_pictures(tmp_path))
    before = [path.read_bytes() for path in paths]
    with pytest.raises(ProtosegError, match=r"is kept, because camvid/images/val/.* was not read"):
        save.write_figure_files(figure, folder, find_pictures(tmp_path / "elsewhere"))
    assert [path.read_bytes() for path in paths] == before
    grey = save.write_figure_files(figure, tmp_path / "new", find_pictures(tmp_path / "elsewhere"))
    again = save.write_figure_files(figure, tmp_path / "new", find_pictures(tmp_path / "elsewhere"))
    assert grey == again


@pytest.mark.parametrize("figure_type", ["examples", "prototypes", "confusion"])
def test_verify_builds_a_figure_with_its_options(
    figure_type: str, lab: Lab, matrix: Matrix, tmp_path: Path
) -> None:
    rows = ROWS[1:] if figure_type == "prototypes" else ROWS
    figure = build(lab, matrix, figure_type, rows=rows)
    save.write_figure_files(figure, tmp_path / "figures", find_pictures(tmp_path))

    def check() -> Sequence[Any]:
        sources = Sources(tmp_path, (), lab.runs)
        return check_figures(sources, {"test": matrix}, {}, False).problems

    assert not check()
    if figure_type != "confusion":
        path = next(lab.runs.glob("*prototype*/samples.npz"))
        write_samples(make_samples(path.parent.name, STATE, seed=7), path)
        assert len(check()) == 3


def test_colours_come_from_the_palette_if_it_has_all_classes() -> None:
    palette = {"sky": [1, 2, 3], "car": [[4, 5, 6], [7, 8, 9]], "ignore": [0, 0, 0]}
    colours, note = choose_colours({"palette": palette}, ["sky", "car"], 255)
    assert colours.colours == ((1, 2, 3), (4, 5, 6))
    assert "palette of the data set" in note
    colours, note = choose_colours({"palette": palette}, ["sky", "dog"], 255)
    assert colours.colours == list_safe_colors(2)
    _, note = choose_colours({}, [str(i) for i in range(24)], 255)
    assert "24 classes: not safe" in note
    assert len(set(list_safe_colors(150))) == 150


def test_safe_colours_differ_for_colour_blind_readers() -> None:
    """CIE 1976 distances for normal sight, protanopia and deuteranopia (Machado et al. 2009)."""
    views = (
        np.eye(3),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                  [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                  [-0.011820, 0.042940, 0.968881]]),
    )  # fmt: skip
    srgb = np.array([*list_safe_colors(len(SAFE_COLORS)), (0, 0, 0)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    for view in views:
        xyz = np.clip(linear @ view.T, 0, 1) @ np.array(to_xyz).T / (0.9505, 1, 1.089)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab_values = np.stack(
            [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
        )
        for one, other in itertools.combinations(lab_values, 2):
            assert np.linalg.norm(one - other) > 16.9
