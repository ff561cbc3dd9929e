"""The bootstrap against a slow loop and a simulated truth; comparisons from records to words."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import parametric_on_camvid

from protoseg.cli import main
from protoseg.errors import ProtosegError
from protoseg.report.comparison import Comparison, Run, compare, find_runs
from protoseg.report.statistics import bootstrap
from protoseg.report.statistics.counts import ImageCounts, count_per_image, read_counts
from protoseg.runs.record import read_record
from protoseg.runs.store import RecordStore
from report.lab import Lab, method

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "records"


def counts(generator: np.random.Generator, truth: Any, right: float) -> ImageCounts:
    """Counts of a model that is right about this share of the pixels of each class."""
    classes = truth.shape[1]
    hit = generator.binomial(truth.astype(int), right).astype(float)
    wrong = (truth - hit).sum(1).astype(int)
    stray = np.array([generator.multinomial(w, np.full(classes, 1 / classes)) for w in wrong])
    return ImageCounts(hit, truth, truth + stray)


def truths(generator: np.random.Generator, images: int, classes: int = 5) -> Any:
    return generator.integers(0, 300, (images, classes)) * generator.integers(
        0, 2, (images, classes)
    ).astype(float)


def slow_miou(run: ImageCounts, images: Any) -> float:
    """mIoU of the images of a draw, class by class, as one would write it down."""
    values = []
    for c in range(run.hit.shape[1]):
        union = sum(run.union[i, c] for i in images)
        if union:
            values.append(sum(run.hit[i, c] for i in images) / union)
    return 100 * sum(values) / len(values)


def test_the_bootstrap_is_the_slow_loop() -> None:
    generator = np.random.default_rng(0)
    truth = truths(generator, 9)
    truth[:, 4] = 0  # a class that only predictions have, and in some draws nobody
    ours = [counts(generator, truth, right) for right in (0.8, 0.82)]
    theirs = [counts(generator, truth, 0.7)]
    found = bootstrap.bootstrap_differences(ours, theirs, np.random.default_rng(5), 300)
    drawn = np.random.default_rng(5)
    for start in range(0, 300, bootstrap.CHUNK):
        size = min(bootstrap.CHUNK, 300 - start)
        for row, images in enumerate(bootstrap.draw_images(drawn, size, 9)):
            expected = np.mean([slow_miou(r, images) for r in ours]) - slow_miou(theirs[0], images)
            assert found[start + row] == pytest.approx(expected, abs=1e-9)


def test_draws_follow_from_the_generator_alone() -> None:
    generator = np.random.default_rng(1)
    truth = truths(generator, 12)
    sides = [counts(generator, truth, 0.8)], [counts(generator, truth, 0.7)]
    first, again, other = (
        bootstrap.bootstrap_differences(*sides, np.random.default_rng(seed), 50)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_interval_covers_the_truth_of_a_simulated_world() -> None:
    """A split of 80 images, again and again, from a world whose difference is known."""
    generator = np.random.default_rng(7)
    truth = truths(generator, 20_000)
    world = [counts(generator, truth, right) for right in (0.8, 0.75)]
    expected = np.subtract(*(bootstrap.miou(run.hit.sum(0), run.union.sum(0)) for run in world))
    covered = 0
    trials = 200
    for _ in range(trials):
        chosen = generator.choice(len(truth), 80, replace=False)
        split = [
            ImageCounts(run.hit[chosen], run.truth[chosen], run.union[chosen]) for run in world
        ]
        drawn = bootstrap.bootstrap_differences(split[:1], split[1:], generator, 300)
        low, high = bootstrap.percentile_interval(drawn, 0.95)
        covered += low <= expected <= high
    assert 0.89 <= covered / trials <= 0.99  # 95 %, within three standard errors or so


def test_counts_give_the_record_back() -> None:
    path = sorted(RECORDS.glob("camvid*.npz"))[0]
    record = json.loads(path.with_suffix(".json").read_text())
    found = count_per_image(read_counts(path))
    assert found.truth.shape == (101, 11)
    assert bootstrap.miou(found.hit.sum(0), found.union.sum(0)) == pytest.approx(
        record["metrics"]["miou"], abs=1e-9
    )
    with np.load(path) as archive:
        dense = np.zeros((101, 11, 11))
        place = archive["image"], *np.divmod(archive["cell"], 11)
        np.add.at(dense, place, archive["count"])
    assert np.array_equal(found.truth, dense.sum(2))
    assert np.array_equal(found.union, dense.sum(2) + dense.sum(1) - found.hit)


def test_runs_on_different_images_are_refused() -> None:
    generator = np.random.default_rng(1)
    one, other = (counts(generator, truths(generator, n), 0.8) for n in (12, 12))
    with pytest.raises(ProtosegError, match="not evaluated on the same images"):
        bootstrap.bootstrap_differences([one], [other], generator, 10)


SCALED, PARAMETRIC = "ProtoSeg (paper, scores / 0.1), K = 1", "Parametric, K = 1"


def committed(prototypes: int) -> list[Run]:
    """The committed parametric runs on CamVid, by seed."""
    ids = [path.stem for path in parametric_on_camvid(prototypes)]
    runs, missing = find_runs(ids, RecordStore([RECORDS], None))
    assert not missing
    assert [run.seed for run in runs] == [0, 1, 2]
    return runs


def against(ours: list[Run], theirs: list[Run], **options: int) -> Comparison:
    options = {"draws": 200, "generator_seed": 0, **options}
    return compare(("ours", ours), ("theirs", theirs), **options)  # type: ignore[arg-type]


def test_a_comparison_over_seeds_and_images() -> None:
    ours, theirs = committed(10), committed(1)
    found = against(ours, theirs)
    differences = [a.miou - b.miou for a, b in zip(ours, theirs, strict=True)]
    assert found.difference == pytest.approx(np.mean(differences))
    half = 4.302652729911275 * np.std(differences, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert found.seed_interval == pytest.approx(
        (found.difference - half, found.difference + half), abs=1e-9
    )
    low, high = found.image_interval
    assert low < found.difference < high
    assert (found.smallest_p, found.images, found.seeds) == (0.25, 101, (0, 1, 2))
    assert against(ours, theirs).image_interval == found.image_interval
    assert against(ours, theirs, generator_seed=1).image_interval != found.image_interval


def test_one_seed_and_no_shared_seed_say_what_is_not_known() -> None:
    ours, theirs = committed(10), committed(1)
    one = against(ours[:1], theirs)
    assert (one.seed_interval, one.p, one.smallest_p, one.seeds) == (None, 1.0, 1.0, (0,))
    assert sum("not shared" in words for words in one.left_out) == 2
    unpaired = against(ours[:1], theirs[1:2])
    assert (unpaired.seed_interval, unpaired.p, unpaired.seeds) == (None, None, ())
    assert unpaired.difference == ours[0].miou - theirs[1].miou


def test_other_protocols_and_missing_runs_are_refused(lab: Lab) -> None:
    ours = committed(10)
    path = lab.finish(method("parametric 1"), 50.0)
    other = Run(read_record(path), Path("none"))
    with pytest.raises(ProtosegError, match=r"dataset\.classes"):
        against(ours, [other])
    wider = dataclasses.replace(ours[0], record=copy.deepcopy(ours[0].record))
    wider.record["spec"]["method"]["scales"] = [0.5, 1.0]
    with pytest.raises(ProtosegError, match=r"they differ in method\.scales"):
        against(ours, [wider])
    with pytest.raises(ProtosegError, match="'theirs' has no finished run"):
        against(ours, [])
    with pytest.raises(ProtosegError, match="are gone"):
        find_runs([other.record["run_id"]], lab.store)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    def call(*words: str) -> tuple[int, str, str]:
        status = main(["compare", "--runs", str(tmp_path), *words])
        return status, *capsys.readouterr()

    status, out, _ = call("camvid_methods", SCALED, PARAMETRIC, "--json", "--draws", "300")
    found = json.loads(out)
    assert (status, len(found["our_runs"]), found["draws"]) == (0, 3, 300)
    assert found["smallest_p"] == 0.25
    assert found["difference"] == pytest.approx(11.29, abs=0.005)
    status, out, _ = call(found["our_runs"][0], found["their_runs"][0], "--draws", "50")
    assert (status, "one shared seed has no spread" in out) == (0, True)
    status, out, _ = call("camvid_5b", "#2", "1", "--draws", "50")
    assert (status, "5, scores / 0.1 − 1, scores / 0.1" in out) == (0, True)
    for words, sentence in (
        (("camvid-mobilenet_v2-segformer-parametric-k10", "k1-s0-f4f1"), "is a part of 3 runs"),
        (("nothing", "k1-s0-f4f1"), "unknown run 'nothing'"),
        (("camvid_methods", SCALED, "nobody"), "unknown row 'nobody'"),
        (("camvid_5b", "7", "1"), "Known: 1, 5, 10, 20, 50. Or a number, #1 to #5."),
        (("camvid_5b", "2", "1"), "unknown row '2'. Did you mean '20'?"),
        (("paper_table1", "#1", "#2"), "'DeepLabV3+, ResNet-101' is quoted from the literature"),
        (("camvid_methods",), "name two runs, or a matrix and two of its rows"),
    ):
        status, _, err = call(*words)
        assert (status, sentence in err) == (2, True), err
