"""Comparison of two sets of committed runs, and the command `compare`."""

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
from protoseg.cli.views.comparison import comparison_lines
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import ImageGroupsSpec
from protoseg.errors import ProtosegError
from protoseg.report.comparison import Comparison, Options, Run, compare_runs, find_runs
from protoseg.report.tables.builder import build_table
from protoseg.runs.record import read_record
from protoseg.runs.store import RecordStore
from report.lab import Lab, cell, method

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "records"


SCALED, PARAMETRIC = "ProtoSeg (paper, scores / 0.1), K = 1", "Parametric, K = 1"


def committed(prototypes: int) -> list[Run]:
    """The committed parametric runs on CamVid, sorted by seed."""
    ids = [path.stem for path in parametric_on_camvid(prototypes)]
    runs, missing = find_runs(ids, RecordStore([RECORDS], None))
    assert not missing
    assert [run.seed for run in runs] == [0, 1, 2]
    return runs


def against(ours: list[Run], theirs: list[Run], **options: Any) -> Comparison:
    return compare_runs(("ours", ours), ("theirs", theirs), Options(**{"draws": 200, **options}))


def test_a_comparison_has_intervals_over_seeds_and_images() -> None:
    ours, theirs = committed(10), committed(1)
    comparison = against(ours, theirs)
    differences = [a.miou - b.miou for a, b in zip(ours, theirs, strict=True)]
    assert comparison.difference == pytest.approx(np.mean(differences))
    half = 4.302652729911275 * np.std(differences, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert comparison.seed_interval == pytest.approx(
        (comparison.difference - half, comparison.difference + half), abs=1e-9
    )
    low, high = comparison.image_interval
    assert low < comparison.difference < high
    assert (comparison.smallest_p, comparison.images, comparison.seeds) == (0.25, 101, (0, 1, 2))
    assert against(ours, theirs).image_interval == comparison.image_interval
    assert against(ours, theirs, generator_seed=1).image_interval != comparison.image_interval


def test_with_fewer_than_three_shared_seeds_the_seed_interval_is_unknown() -> None:
    ours, theirs = committed(10), committed(1)
    two = against(ours[:2], theirs)
    assert (two.seed_interval, two.smallest_p, two.seeds) == (None, 0.5, (0, 1))
    (line,) = (line for line in comparison_lines(two) if line[0] == "over seeds")
    assert (line[1], line[2].startswith("two shared seeds")) == ("unknown", True)
    one = against(ours[:1], theirs)
    assert (one.seed_interval, one.p, one.smallest_p, one.seeds) == (None, 1.0, 1.0, (0,))
    assert sum("not shared" in sentence for sentence in one.left_out) == 2
    unpaired = against(ours[:1], theirs[1:2])
    assert (unpaired.seed_interval, unpaired.p, unpaired.seeds) == (None, None, ())
    assert unpaired.difference == ours[0].miou - theirs[1].miou


def test_two_seeds_have_no_interval_and_no_p_of_the_t_test() -> None:
    two = against(committed(10)[:2], committed(1))
    assert (two.seed_interval, two.t_p, two.detectable) == (None, None, None)
    assert two.smallest_p == 0.5


def test_units_are_chosen() -> None:
    ours, theirs = committed(10), committed(1)
    blocks = ImageGroupsSpec(block=10)
    every = against(ours, theirs, groups=blocks)
    assert (every.groups, every.group_rule) == (10, "blocks of 10 consecutive images")
    low, high = every.group_interval or (0, 0)
    image_low, image_high = every.image_interval or (0, 0)
    assert high - low > 1.5 * (image_high - image_low)  # frames of one sequence
    assert low < 0 < high
    seeds = against(ours, theirs, groups=blocks, units=("seeds",))
    assert (seeds.image_interval, seeds.group_interval, seeds.groups) == (None, None, None)
    assert seeds.seed_interval == every.seed_interval
    images = against(ours, theirs, groups=blocks, units=("images",))
    assert (images.seed_interval, images.t_p, images.p, images.detectable) == (None,) * 4
    assert images.image_interval == every.image_interval
    groups = against(ours, theirs, groups=blocks, units=("groups",))
    assert (groups.group_interval, groups.image_interval) == (every.group_interval, None)


def test_a_pattern_needs_the_names_of_the_images() -> None:
    ours, theirs = committed(10), committed(1)
    pattern = ImageGroupsSpec(pattern=r"^(\d)")
    with pytest.raises(ProtosegError, match="groups by pattern need file names"):
        against(ours, theirs, groups=pattern)
    counted = against(
        ours,
        theirs,
        groups=pattern,
        list_names=lambda record, images: [f"{index // 20}_{index}" for index in range(images)],
    )
    assert counted.groups == 6


def vocabulary(row: str) -> list[Run]:
    """The committed runs of a row of ccp_vocabulary."""
    matrix = load_matrix(Composer(ROOT / "experiments"), "ccp_vocabulary")
    store = RecordStore([RECORDS], None)
    table = build_table(matrix, store, [ROOT / "results" / "published"])
    return find_runs(cell(table, row, "miou").run_ids, store)[0]


def test_both_sides_have_the_same_classes() -> None:
    ours, theirs = (vocabulary(f"{name}, K = 10, 59") for name in ("ProtoSeg", "Parametric"))
    default = against(ours, theirs)
    assert default.classes == "present"
    assert default.difference == pytest.approx(1.31, abs=0.005)
    assert default.seed_interval == pytest.approx((-0.11, 2.73), abs=0.005)
    assert "averages 51 to 54 classes" in default.notes[0]
    as_mmseg = against(ours, theirs, classes="as-mmseg")
    assert as_mmseg.difference == pytest.approx(1.13, abs=0.005)
    assert as_mmseg.notes[0].startswith("The two sides average different classes.")
    assert as_mmseg.image_interval != default.image_interval
    low, high = default.image_interval or (0, 0)
    assert low < default.difference < high


def test_equal_classes_need_no_other_set() -> None:
    ours, theirs = committed(10), committed(1)
    assert against(ours, theirs).classes == "as-mmseg"
    present = against(ours, theirs, classes="present")
    assert (present.classes, present.difference) == (
        "present",
        pytest.approx(against(ours, theirs).difference),
    )


def test_a_record_without_the_metric_is_refused(lab: Lab) -> None:
    entries = [{"name": "sky", "iou": 50.0}]
    path = lab.finish(method("parametric 1"), 50.0, per_class=entries)
    lacking = Run(read_record(path), Path("none"))
    with pytest.raises(ProtosegError) as caught:
        against([lacking], [lacking], classes="present")
    run_id = lacking.record["run_id"]
    assert str(caught.value).startswith(f"compare: the record of {run_id} has no mIoU (present).")


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


def test_the_command_compares_rows_and_runs_and_names_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["compare", "--runs", str(tmp_path), *arguments])
        return status, *capsys.readouterr()

    status, out, _ = call("camvid_methods", SCALED, PARAMETRIC, "--json", "--draws", "300")
    comparison = json.loads(out)
    assert (status, len(comparison["our_runs"]), comparison["draws"]) == (0, 3, 300)
    assert comparison["smallest_p"] == 0.25
    assert comparison["difference"] == pytest.approx(11.29, abs=0.005)
    status, out, _ = call(comparison["our_runs"][0], comparison["their_runs"][0], "--draws", "50")
    assert (status, "one shared seed has no spread" in out) == (0, True)
    status, out, _ = call("camvid_5b", "#2", "1", "--draws", "50")
    assert (status, "5, scores / 0.1 − 1, scores / 0.1" in out) == (0, True)
    for arguments, sentence in (
        (("camvid-mobilenet_v2-segformer-parametric-k10", "k1-s0-f4f1"), "Give a longer part."),
        (("nothing", "k1-s0-f4f1"), "unknown run 'nothing'"),
        (("camvid_methods", SCALED, "nobody"), "unknown row 'nobody'"),
        (("camvid_5b", "7", "1"), "Known: 1, 5, 10, 20, 50. Or a number, #1 to #5."),
        (("camvid_5b", "2", "1"), "unknown row '2'. Did you mean '20'?"),
        (("paper_table1", "#1", "#2"), "'DeepLabV3+, ResNet-101' is quoted from the literature"),
        (("camvid_methods",), "name two runs, or a matrix and two of its rows"),
    ):
        status, _, err = call(*arguments)
        assert (status, sentence in err) == (2, True), err
