"""``protoseg compare``: what it refuses (tests/report/test_comparison.py compares records)."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.small import composer

from cli.conftest import CommandLine
from protoseg.config.load_matrix import load_matrix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "protoseg compare: name two runs, or a matrix and two of its rows."),
        (["quickstart", "#1", "#2", "miou", "more"], "name two runs, or a matrix and two of"),
        (["a", "b", "seed=0"], "compare: 'seed=0' changes a matrix, but two runs are named."),
        (["quickstart", "#1", "#2", "seeds=1"], "unknown column 'seeds=1'"),
        (["quickstart", "Parametric", "#2"], "quickstart: unknown row 'Parametric'. Did you mean"),
        (["quickstart", "#1", "#2", "mio"], "unknown column 'mio'. Did you mean 'miou'?"),
        (["quickstart", "#1", "#2", "--draws", "0"], "expected a whole number from 1, found '0'"),
        (["quickstart", "#1", "#2", "--by", "frames"], "--by: invalid choice: 'frames'"),
        (["quickstart", "#1", "#2", "--by", "groups"], "compare: --by groups needs groups. Give"),
        (["quickstart", "#1", "#2", "--classes", "all"], "--classes: invalid choice: 'all'"),
        (["quickstart", "#1", "#2", "--block", "0"], "expected a whole number from 1, found '0'"),
        (
            ["quickstart", "#1", "#2", "--block", "2", "--pattern", "x"],
            "compare: --block and --pattern exclude each other; give one.",
        ),
    ],
)
def test_wrong_arguments_are_reported(
    protoseg: CommandLine, arguments: list[str], message: str
) -> None:
    result = protoseg("compare", *arguments)
    assert (result.status, result.out) == (2, "")
    assert message in result.err


def test_an_unknown_run_is_reported_with_the_searched_folders(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    result = protoseg("compare", run.run_id, "nothing")
    assert result.status == 2
    where = f"{protoseg.lab.records} and {protoseg.lab.runs}"
    assert f"protoseg compare: {where}: unknown run 'nothing'. Known: {run.run_id}" in result.err


def test_a_row_without_a_finished_run_is_reported(protoseg: CommandLine) -> None:
    result = protoseg("compare", "quickstart", "Parametric, K = 1", "ProtoSeg, K = 4")
    assert result.status != 0
    assert "'Parametric, K = 1' has no finished run" in result.err
    assert "protoseg sweep" in result.err


def test_overrides_change_the_matrix(protoseg: CommandLine) -> None:
    override = "schedule.iterations=100"
    runs = load_matrix(composer(), "quickstart", [override]).runs
    for run in runs:
        protoseg.record(run, 60.0)
    rows = ("quickstart", "#1", "#2", "--by", "seeds")
    assert "has no finished run" in protoseg("compare", *rows).err
    # The records of these runs are found; these have no counts.
    assert f"the confusion counts of {runs[0].run_id} are gone" in (
        protoseg("compare", *rows, override).err
    )


PAIR = ("camvid_methods", "#2", "#1", "--draws", "200")
"""Two committed rows on CamVid; the matrix declares blocks of 10 frames."""


def test_the_json_has_every_unit(protoseg: CommandLine, shipped_results: Path) -> None:
    data = protoseg("compare", *PAIR, "--json").json
    assert (data["units"], data["classes"]) == (["seeds", "images", "groups"], "as-mmseg")
    assert (data["images"], data["groups"]) == (101, 10)
    assert data["group_rule"] == "blocks of 10 consecutive images"
    for key in ("seed_interval", "image_interval", "group_interval"):
        low, high = data[key]
        assert low < data["difference"] < high
    assert data["t_p"] == pytest.approx(0.562, abs=0.0005)
    assert data["detectable"] == pytest.approx(1.01, abs=0.005)
    assert (data["p"], data["smallest_p"]) == (0.75, 0.25)


def test_units_may_be_chosen(protoseg: CommandLine, shipped_results: Path) -> None:
    text = protoseg("compare", *PAIR).out
    assert all(f"over {unit}" in text for unit in ("seeds", "images", "groups"))
    text = protoseg("compare", *PAIR, "--by", "images").out
    assert "over images" in text
    assert "over seeds" not in text
    assert "over groups" not in text
    text = protoseg("compare", *PAIR, "--by", "seeds", "--by", "groups").out
    assert "over seeds" in text
    assert "over images" not in text
    assert "the same over 10 groups" not in text
    assert "bootstrap over 10 groups of images: blocks of 10 consecutive images" in text


def test_blocks_of_the_call_replace_those_of_the_matrix(
    protoseg: CommandLine, shipped_results: Path
) -> None:
    assert protoseg("compare", *PAIR, "--block", "20", "--json").json["groups"] == 5
    result = protoseg("compare", *PAIR, "--block", "50")
    assert (result.status, result.out) != (0, "")
    assert "blocks of 50 of 101 images make 2 groups, but the bootstrap needs" in result.err


def write_camvid(folder: Path, names: list[str]) -> None:
    """Make empty files in the layout of CamVid."""
    for part, suffix in (("images", ".jpg"), ("annotations", ".png")):
        (folder / "camvid" / part / "val").mkdir(parents=True)
        for name in names:
            (folder / "camvid" / part / "val" / f"{name}{suffix}").touch()


def test_a_pattern_groups_images_by_the_names_in_the_data_folder(
    protoseg: CommandLine, shipped_results: Path
) -> None:
    result = protoseg("compare", *PAIR, "--pattern", r"^seq(\d)")
    assert result.status != 0
    assert "--pattern needs the file names of camvid val, but the data set is not in" in result.err
    write_camvid(protoseg.data, [f"seq{index // 26}_{index:03}" for index in range(101)])
    data = protoseg("compare", *PAIR, "--pattern", r"^seq(\d)", "--json").json
    assert (data["groups"], data["group_rule"]) == (4, r"images with equal '^seq(\d)'")
    one = protoseg("compare", *PAIR, "--pattern", "seq")
    assert "puts all 101 images into one group ('seq')" in one.err


def test_other_data_than_that_of_the_records_has_no_groups(
    protoseg: CommandLine, shipped_results: Path
) -> None:
    write_camvid(protoseg.data, [str(index) for index in range(7)])
    result = protoseg("compare", *PAIR, "--pattern", "[0-9]")
    assert result.status != 0
    assert "has 7 images of this split, but the record counts 101." in result.err


def test_the_classes_may_be_chosen(protoseg: CommandLine, shipped_results: Path) -> None:
    rows = ("ccp_vocabulary", "#16", "#12", "--draws", "50")
    default = protoseg("compare", *rows)
    assert "mIoU (present)" in default.out
    assert "+1.31" in default.out
    assert "averages 51 to 54 classes" in " ".join(default.out.split())
    as_mmseg = protoseg("compare", *rows, "--classes", "as-mmseg")
    assert "+1.13" in as_mmseg.out
    assert "Compare with --classes present." in as_mmseg.out
