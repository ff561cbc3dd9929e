"""Figures: drawn values, read back from the artists, and refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy import stats
from waiting import DEADLINE

from protoseg.config.matrix import Matrix, PublishedSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.figures import save as figure_files
from protoseg.report.figures.contents import AxisPlot, DotPlot, Figure, read_digest
from protoseg.report.figures.data import read_figure_input
from protoseg.report.figures.numeric_axis import choose_scale
from protoseg.report.figures.types import build_figure, has_curves
from protoseg.report.verify.figures import check_figures
from protoseg.report.verify.record_sources import Sources
from report.lab import CLASSES, Lab, make_matrix, make_spec, method, methods_matrix

SEEDS = (0, 1, 2)
VALUES = (1, 5, 10, 50)
KINDS = ("parametric", "prototype")


def grid_matrix(**table: Any) -> Matrix:
    """A matrix of K and two heads."""
    planned = [
        (method(f"{head} {k}", seed), {"method.kind": head, "method.num_prototypes": k})
        for head, k, seed in itertools.product(KINDS, VALUES, SEEDS)
    ]
    names = {"method.num_prototypes": "K", "parametric": "Linear", "prototype": "ProtoSeg"}
    return make_matrix(planned, **{"columns": ("method.kind",), "names": names, **table})


def finish(lab: Lab, matrix: Matrix, without: Any = lambda spec: False, **more: Any) -> Any:
    """Write the records of a matrix; return run id -> mIoU."""
    values = {}
    for index, run in enumerate(matrix.runs):
        if not without(run.spec):
            values[run.run_id] = 40 + random.Random(index).random() * 5
            lab.finish(run.spec, values[run.run_id], **more)
    return values


def make_figure(lab: Lab, matrix: Matrix, figure_type: str = "metric") -> Figure:
    return build_figure(read_figure_input(matrix, lab.store, [lab.published]), figure_type)


def draw_figure(figure: Figure) -> Canvas:
    with figure_files.figure_style():
        return figure_files.draw_figure(figure)


def lines(axes: Axes, gid: str) -> Iterator[tuple[list[float], list[float]]]:
    """Yield (x, y) of the lines whose gid starts with ``gid``."""
    for line in axes.get_lines():
        if (line.get_gid() or "").startswith(gid):
            yield [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def read_texts(canvas: Canvas) -> str:
    texts = [*canvas.texts, *(text for axes in canvas.axes for text in axes.texts)]
    label = canvas.get_supxlabel()
    return "\n".join([label, *(text.get_text() for text in texts)]).replace("\xa0", " ")


def interval(values: list[float]) -> tuple[float, float]:
    """Student t interval of scipy."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(low), float(high)


def test_a_numeric_axis_shows_means_intervals_and_seeds(lab: Lab) -> None:
    matrix = grid_matrix()
    values = finish(lab, matrix)
    figure = make_figure(lab, matrix)
    assert isinstance(figure.content, AxisPlot)
    assert (figure.content.x_name, figure.content.y_name) == ("K", "mIoU (%)")
    assert [line.name for line in figure.content.lines] == ["Linear", "ProtoSeg"]
    axes = draw_figure(figure).axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "10", "50"]
    drawn = list(lines(axes, "interval"))
    for index, head in enumerate(KINDS):
        of = {
            k: [values[run.run_id] for run in matrix.runs
                if run.axes == {"method.kind": head, "method.num_prototypes": k}]
            for k in VALUES
        }  # fmt: skip
        ((x, y),) = lines(axes, f"mean-{index}")
        assert x == list(VALUES)
        assert y == pytest.approx([np.mean(of[k]) for k in VALUES])
        ((x, y),) = lines(axes, f"seeds-{index}")
        assert sorted(zip(x, y, strict=True)) == sorted((k, v) for k in VALUES for v in of[k])
        for k in VALUES:
            low, high = interval(of[k])
            assert any(xs == [k, k] and ys == pytest.approx([low, high]) for xs, ys in drawn)
    assert len(drawn) == len(KINDS) * len(VALUES)
    low, high = axes.get_ylim()
    assert all(low < y < high for _, ys in drawn for y in ys)


def test_a_missing_value_is_a_cross_and_a_gap_and_two_seeds_have_no_interval(lab: Lab) -> None:
    matrix = grid_matrix()
    finish(
        lab,
        matrix,
        lambda s: (
            s.method.kind == "prototype"
            and (s.method.num_prototypes == 5 or (s.method.num_prototypes == 50 and s.seed == 1))
        ),
    )
    lab.fail(method("prototype 50", 1), "out_of_memory")
    canvas = draw_figure(make_figure(lab, matrix))
    axes = canvas.axes[0]
    ((x, y),) = lines(axes, "mean-1")
    assert [math.isnan(value) for value in y] == [k == 5 for k in x]
    assert [x for x, _ in lines(axes, "missing-")] == [[5]]
    assert all(value > 30 for gid in ("mean", "seeds") for _, ys in lines(axes, gid)
               for value in ys if not math.isnan(value))  # fmt: skip
    drawn = [x[0] for x, _ in lines(axes, "interval")]
    assert sorted(drawn) == [1, 1, 5, 10, 10, 50]
    notes = " ".join(read_texts(canvas).split())
    assert "K = 5, ProtoSeg (not run)" in notes
    assert "K = 50, ProtoSeg (2 of 3 seeds, the rest failed: out_of_memory)" in notes
    assert "No interval is drawn with fewer than 3 seeds." in notes
    assert [text.get_text() for text in canvas.legends[0].get_texts()][-1] == "no result"


def test_named_rows_are_dots_and_name_missing_values(lab: Lab) -> None:
    matrix = methods_matrix(baseline={"label": "parametric 1"})
    values = finish(
        lab, matrix,
        lambda s: s.method.num_prototypes == 10 and (s.method.kind == "prototype" or s.seed == 2),
    )  # fmt: skip
    figure = make_figure(lab, matrix)
    assert isinstance(figure.content, DotPlot)
    canvas = draw_figure(figure)
    axes = canvas.axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["parametric 1", "parametric 10", "prototype 1", "prototype 10"]
    at = dict(zip(rows, axes.get_yticks(), strict=True))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    means = {y[0]: x[0] for x, y in lines(axes, "mean")}
    of = {row: [values[run.run_id] for run in matrix.runs
                if run.axes["label"] == row and run.run_id in values] for row in rows}  # fmt: skip
    assert means == pytest.approx({at[row]: np.mean(of[row]) for row in rows[:3]})
    drawn = {y[0]: tuple(x) for x, y in lines(axes, "interval")}
    assert set(drawn) == {at["parametric 1"], at["prototype 1"]}
    assert drawn[at["prototype 1"]] == pytest.approx(interval(of["prototype 1"]))
    seeds = {y[0]: sorted(x) for x, y in lines(axes, "seeds")}
    assert seeds[at["parametric 10"]] == sorted(of["parametric 10"])
    ((x, _),) = lines(axes, "baseline")
    assert x == pytest.approx([np.mean(of["parametric 1"])] * 2)
    texts = {t.get_text(): t for t in axes.texts if t.get_gid() == "missing"}
    assert set(texts) == {"not run", "2 of 3"}
    assert texts["not run"].get_position()[1] == at["prototype 10"]


def published(lab: Lab, **content: Any) -> PublishedSpec:
    rows = [{"k": k, "miou": 46.0 + k / 10} for k in VALUES[:3]] + [{"k": 50, "miou": None}]
    full = {"source": "A paper", "dataset": "camvid", "split": "val", "rows": rows, **content}
    (lab.published / "numbers.yaml").write_text(yaml.safe_dump(full))
    return PublishedSpec("numbers", match={"method.num_prototypes": "k"})


def one_line(**table: Any) -> Matrix:
    planned = [
        (method(f"prototype {k}", seed), {"method.num_prototypes": k})
        for k in VALUES
        for seed in SEEDS
    ]
    return make_matrix(planned, **table)


def test_published_values_of_the_same_data_are_drawn_separately(lab: Lab) -> None:
    matrix = one_line(published=published(lab))
    finish(lab, matrix)
    canvas = draw_figure(make_figure(lab, matrix))
    ((x, y),) = lines(canvas.axes[0], "published")
    assert x == list(VALUES)
    assert y == pytest.approx([46.1, 46.5, 47.0, math.nan], nan_ok=True)
    assert "Published, not measured here: A paper." in " ".join(read_texts(canvas).split())
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == ["published (hollow)"]
    published(lab, split="test")
    canvas = draw_figure(make_figure(lab, matrix))
    assert list(lines(canvas.axes[0], "published")) == []
    assert "not drawn" in read_texts(canvas)


def test_rows_that_change_one_number_of_the_baseline_form_lines(lab: Lab) -> None:
    weights = {f"λ1 = {w}": {"ppc_weight": w} for w in (0.001, 0.05)}
    weights |= {"both": {}} | {f"λ2 = {w}": {"ppd_weight": w} for w in (0.001, 0.05)}
    head = {"kind": "prototype", "num_prototypes": 10, "ppc_weight": 0.01, "ppd_weight": 0.01}
    planned = [
        (make_spec(seed, method={**head, **change}), {"label": label})
        for label, change in weights.items()
        for seed in SEEDS
    ]
    matrix = make_matrix(planned, baseline={"label": "both"})
    finish(lab, matrix)
    content = make_figure(lab, matrix).content
    assert isinstance(content, AxisPlot)
    assert [line.name for line in content.lines] == ["ppc_weight", "ppd_weight"]
    for line, name in zip(content.lines, ("λ1", "λ2"), strict=True):
        points = [(point.x, point.place.label) for point in line.points]
        assert points == [(0.001, f"{name} = 0.001"), (0.01, "both"), (0.05, f"{name} = 0.05")]
    # A row that changes two fields is not on an axis.
    other = make_spec(0, method={**head, "ppc_weight": 0.5, "momentum": 0.5})
    matrix = make_matrix([*planned, (other, {"label": "else"})], baseline={"label": "both"})
    assert isinstance(make_figure(lab, matrix).content, DotPlot)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10, 20, 40, 59), "linear"),
        ((150, 300, 500, 700, 847), "linear"),
        ((1, 5, 10, 20, 50), "log"),
        ((0.001, 0.005, 0.01, 0.02, 0.03, 0.05), "log"),
        ((0, 0.9, 0.99, 0.999, 0.9999), "even"),
    ],
)
def test_the_scale_separates_the_values(values: tuple[float, ...], expected: str) -> None:
    assert choose_scale(values) == expected


def test_loss_curves_show_mean_and_range_over_shared_iterations(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"], baseline={"label": "parametric 1"})
    curves = {}
    for run in matrix.runs[:-1]:
        generator = random.Random(run.run_id)
        points = range(10, 60 if run.spec.seed else 50, 10)
        curve = [[i, {"loss": 1 + generator.random(), "loss_ce": 1.0}] for i in points]
        curves[run.axes["label"], run.spec.seed] = [values["loss"] for _, values in curve]
        lab.finish(run.spec, 70.0, losses=curve)
    canvas = draw_figure(make_figure(lab, matrix, "loss"))
    axes = dict(zip(("parametric 1", "prototype 10"), canvas.axes, strict=True))
    for label, seeds in (("parametric 1", (0, 1, 2)), ("prototype 10", (0, 1))):
        ((x, y),) = lines(axes[label], "mean")
        every = np.array([curves[label, seed][:4] for seed in seeds])
        assert x == [10, 20, 30, 40]
        assert y == pytest.approx(every.mean(0))
        (band,) = [c for c in axes[label].collections if c.get_gid() == "range"]
        corners = {tuple(np.round(corner, 9)) for corner in band.get_paths()[0].vertices}
        edges = [*zip(x, every.min(0), strict=True), *zip(x, every.max(0), strict=True)]
        assert {tuple(np.round(edge, 9)) for edge in edges} <= corners
    ((_, mean),) = lines(axes["parametric 1"], "mean")
    assert [y for _, y in lines(axes["prototype 10"], "baseline")] == [mean]
    assert "prototype 10 (2 of 3 seeds, the rest not run)" in " ".join(read_texts(canvas).split())


def make_curve(seed: int, mious: Sequence[float]) -> list[dict[str, Any]]:
    points = [{"miou": miou + seed, "iou": [], "loss": 1.0} for miou in mious]
    return [{"iteration": 20 * number, **point} for number, point in enumerate(points, 1)]


def curve_matrix(without: Sequence[str] = ()) -> Matrix:
    """Rows with metrics on the way, except the labels ``without``."""
    labels = ("parametric 1", "parametric 10", "prototype 10")
    planned = [
        (
            dataclasses.replace(
                spec := method(label, seed),
                evaluation=dataclasses.replace(
                    spec.evaluation, every=0 if label in without else 20
                ),
            ),
            {"label": label},
        )
        for label in labels
        for seed in SEEDS
    ]
    return make_matrix(planned, baseline={"label": "parametric 1"})


def test_learning_curves_show_mean_and_range_over_shared_iterations(lab: Lab) -> None:
    matrix = curve_matrix(without=["parametric 10"])
    assert has_curves(read_input(lab, matrix, run=0)) is False
    values: dict[tuple[str, int], list[float]] = {}
    for run in matrix.runs[1:-1]:
        label, seed = str(run.axes["label"]), run.spec.seed
        mious = [10.0 + random.Random(run.run_id).random() * i for i in range(1, 6)]
        curve = make_curve(seed, mious if seed else mious[:4])
        values[label, seed] = [point["miou"] for point in curve]
        on_the_way = {} if label == "parametric 10" else {"curve": curve}
        lab.finish(run.spec, curve[-1]["miou"], **on_the_way)
    figure_input = read_figure_input(matrix, lab.store, [lab.published])
    assert has_curves(figure_input) is True
    figure = build_figure(figure_input, "curves")
    assert figure.name == "test_curves"
    canvas = draw_figure(figure)
    labels = ("parametric 1", "parametric 10", "prototype 10")
    axes = dict(zip(labels, canvas.axes, strict=True))
    assert [a.get_title(loc="left") for a in canvas.axes] == [*labels]
    for label, seeds in (("parametric 1", (1, 2)), ("prototype 10", (0, 1))):
        number = 5 if 0 not in seeds else 4
        ((x, y),) = lines(axes[label], "mean")
        every = np.array([values[label, seed][:number] for seed in seeds])
        assert x == [20.0 * i for i in range(1, number + 1)]
        assert y == pytest.approx(every.mean(0))
        (band,) = [c for c in axes[label].collections if c.get_gid() == "range"]
        corners = {tuple(np.round(corner, 9)) for corner in band.get_paths()[0].vertices}
        edges = [*zip(x, every.min(0), strict=True), *zip(x, every.max(0), strict=True)]
        assert {tuple(np.round(edge, 9)) for edge in edges} <= corners
    ((_, mean),) = lines(axes["parametric 1"], "mean")
    assert [y for _, y in lines(axes["prototype 10"], "baseline")] == [mean]
    assert list(lines(axes["parametric 10"], "mean")) == []
    assert [text.get_text() for text in axes["parametric 10"].texts] == ["no curve"]
    notes = " ".join(read_texts(canvas).split())
    assert "parametric 10 (no curve)" in notes
    assert "parametric 1 (2 of 3 seeds, the rest not run)" in notes
    assert canvas.axes[0].get_ylabel() == "mIoU (%)"


def read_input(lab: Lab, matrix: Matrix, run: int) -> Any:
    """The figure input with the record of one run, which has no curve."""
    lab.finish(matrix.runs[run].spec, 40.0)
    figure_input = read_figure_input(matrix, lab.store, [lab.published])
    (lab.records / f"{matrix.runs[run].run_id}.json").unlink()
    return figure_input


def test_records_without_metrics_on_the_way_have_no_learning_curves(lab: Lab) -> None:
    matrix = methods_matrix()
    finish(lab, matrix)
    with pytest.raises(ProtosegError) as caught:
        make_figure(lab, matrix, "curves")
    assert str(caught.value) == (
        "test: curves: no record has metrics on the way. Train with evaluation.every=N, the "
        "iterations between two evaluations."
    )


def test_verify_compares_learning_curves_with_the_records(lab: Lab) -> None:
    matrix = curve_matrix()
    for run in matrix.runs:
        lab.finish(run.spec, 40.0, curve=make_curve(run.spec.seed, [10.0, 30.0, 40.0]))
    folder = lab.folder / "figures"
    figure_files.write_figure_files(make_figure(lab, matrix, "curves"), folder)
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert (check.count, check.problems) == (3, [])
    first = matrix.runs[0].spec
    lab.finish(first, 40.0, curve=make_curve(0, [10.0, 30.1, 40.0]))
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert {problem.file for problem in check.problems} == {
        f"figures/test_curves.{form}" for form in ("svg", "pdf", "png")
    }


def classes(seed: int, shift: float) -> list[dict[str, Any]]:
    pixels = {"sky": 300, "road": 600, "car": 100}
    return [
        {"name": name, "iou": None if name == "car" and seed == 1 else 50 + shift + seed + i,
         "acc": 90.0, "pixels": pixels[name]}
        for i, name in enumerate(CLASSES)
    ]  # fmt: skip


def test_classes_are_sorted_by_frequency_beside_the_baseline(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"], baseline={"label": "parametric 1"})
    for run in matrix.runs:
        shift = 10.0 if run.axes["label"] == "prototype 10" else 0.0
        lab.finish(run.spec, 70.0, per_class=classes(run.spec.seed, shift))
    canvas = draw_figure(make_figure(lab, matrix, "classes"))
    (axes,) = canvas.axes
    assert axes.get_title(loc="left") == "prototype 10"
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["road 60 %", "sky 30 %", "car 10 %"]
    ((_, theirs),) = lines(axes, "theirs")
    ((_, ours),) = lines(axes, "ours")
    assert theirs == pytest.approx([52.0, 51.0, 53.0])  # car: the mean of seeds 0 and 2
    assert ours == pytest.approx([62.0, 61.0, 63.0])


def test_classes_of_different_pixels_are_refused(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"])
    for run in matrix.runs:
        entries = classes(run.spec.seed, 0.0)
        entries[0]["pixels"] += run.spec.method.num_prototypes
        lab.finish(run.spec, 70.0, per_class=entries)
    with pytest.raises(UsageError, match="evaluated on different classes or pixels"):
        make_figure(lab, matrix, "classes")


def test_many_classes_are_drawn_over_their_share_of_pixels(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"])
    entries = [{"name": f"c{i}", "iou": 50.0 + i, "acc": 1.0, "pixels": 2**i} for i in range(40)]
    entries.append({"name": "nowhere", "iou": 0.0, "acc": None, "pixels": 0})
    for run in matrix.runs:
        lab.finish(run.spec, 70.0, per_class=entries)
    axes = draw_figure(make_figure(lab, matrix, "classes")).axes[0]
    assert axes.get_xscale() == "log"
    ((x, y),) = lines(axes, "ours")
    assert x == pytest.approx([100 * 2**i / (2**40 - 1) for i in reversed(range(40))])
    assert y == [50.0 + i for i in reversed(range(40))]


def test_a_figure_with_two_evaluation_protocols_is_refused(lab: Lab) -> None:
    planned = [
        (make_spec(seed, method={"num_prototypes": k}, evaluation={"split": split}), {"K": k})
        for k, split in ((1, "val"), (2, "val"), (4, "test"))
        for seed in SEEDS
    ]
    matrix = make_matrix(planned)
    finish(lab, matrix)
    with pytest.raises(ProtosegError, match="its table mixes two evaluation protocols"):
        make_figure(lab, matrix)


def test_a_matrix_without_records_is_refused_in_one_sentence(lab: Lab) -> None:
    lab.fail(method("parametric 1"), "out_of_memory")
    with pytest.raises(ProtosegError) as caught:
        make_figure(lab, methods_matrix())
    assert str(caught.value) == (
        "test: no run has finished, so there is nothing to draw. Train with: protoseg sweep test"
    )


def test_a_class_figure_of_one_row_is_refused(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1"])
    finish(lab, matrix)
    with pytest.raises(UsageError, match="compares rows with a baseline, but there is one row"):
        make_figure(lab, matrix, "classes")


def test_equal_records_give_equal_bytes_with_any_user_settings(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    matrix = one_line()
    finish(lab, matrix)
    figure = make_figure(lab, matrix)
    first = figure_files.render_files(figure)
    assert [*first] == ["test.svg", "test.pdf", "test.png"]
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "yellow")
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", None)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert figure_files.render_files(make_figure(lab, matrix)) == first
    for name, content in first.items():
        assert read_digest(content) == figure.digest, name
        assert b"CreationDate" not in content
    paths = figure_files.write_figure_files(figure, tmp_path / "figures")
    before = [path.stat().st_mtime_ns for path in paths]
    assert [path.read_bytes() for path in paths] == [*first.values()]
    figure_files.write_figure_files(figure, tmp_path / "figures")
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(first)


DRAW = """\
import hashlib, pickle, sys
from protoseg.report.figures.save import render_files
for figure in pickle.load(open(sys.argv[1], "rb")):
    for content in render_files(figure).values():
        print(hashlib.sha256(content).hexdigest())
"""


def test_another_process_with_another_hash_seed_draws_equal_bytes(lab: Lab, tmp_path: Path) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"])
    entries = [{"name": f"c{i}", "iou": 50.0 + i, "acc": 1.0, "pixels": 10 - i} for i in range(9)]
    finish(lab, matrix, per_class=entries)
    figures = [make_figure(lab, matrix, figure_type) for figure_type in ("classes", "loss")]
    (tmp_path / "figures").write_bytes(pickle.dumps(figures))
    # This process has a random hash seed.
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", DRAW, str(tmp_path / "figures")]
    printed = subprocess.check_output(command, env=environment, text=True, timeout=DEADLINE)
    assert printed.splitlines() == [
        hashlib.sha256(content).hexdigest()
        for figure in figures
        for content in figure_files.render_files(figure).values()
    ]


def test_a_label_is_drawn_without_math_text(lab: Lab) -> None:
    matrix = methods_matrix(["parametric 1", "prototype 10"], names={"prototype 10": "$x_{1$ <b>"})
    finish(lab, matrix)
    canvas = draw_figure(make_figure(lab, matrix))
    assert canvas.axes[0].get_yticklabels()[1].get_text() == "$x_{1$ <b>"
    canvas.draw_without_rendering()


def test_verify_compares_the_digest_in_each_figure_with_the_records(lab: Lab) -> None:
    matrix = one_line()
    finish(lab, matrix)
    folder = lab.folder / "figures"
    figure_files.write_figure_files(make_figure(lab, matrix), folder)
    matrices = {"test": matrix}
    check = check_figures(Sources(lab.folder), matrices, {}, True)
    assert (check.count, check.problems) == (3, [])
    # A changed record, a figure without a digest, and a figure without a matrix.
    lab.finish(matrix.runs[0].spec, 50.0)
    (folder / "test.svg").write_text("<svg/>")
    (folder / "other_loss.png").write_bytes(b"")
    check = check_figures(Sources(lab.folder), matrices, {}, True)
    notes = {problem.file: problem.message for problem in check.problems}
    assert notes.pop("figures/other_loss.png") == "there is no matrix of this name."
    assert notes.pop("figures/test.svg").startswith("contains no digest of its data. Draw it")
    assert {*notes} == {"figures/test.pdf", "figures/test.png"}
    for message in notes.values():
        assert message == (
            "was drawn from other data than the records hold. Draw it again: "
            "protoseg figures test --kind metric"
        )
    only = dataclasses.replace(matrix, name="else")
    assert check_figures(Sources(lab.folder), {"else": only}, {}, False).count == 0
