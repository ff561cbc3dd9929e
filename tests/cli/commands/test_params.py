"""``protoseg params``."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine, run_in_process


@pytest.fixture
def counting(protoseg: CommandLine, tmp_path: Path) -> CommandLine:
    """The command line with the published counts in its results folder."""
    shutil.copytree(
        REPOSITORY / "results" / "published", tmp_path / "published", dirs_exist_ok=True
    )
    return protoseg


def test_a_row_has_the_published_count_and_ours(counting: CommandLine) -> None:
    result = counting("params", "mit_b0")
    assert result.status == 0
    (line,) = [line for line in result.out.splitlines() if "MiT-B0" in line]
    assert line.split() == ["7", "SegFormer", "MiT-B0", "150", "1", "3.8", "3.754", "3.7",
                            "3.715", "–", "0.039", "0"]  # fmt: skip
    assert "≠" not in line


@pytest.mark.slow
def test_libraries_print_nothing_to_standard_error() -> None:
    process = run_in_process(["params", "mit_b0"], cwd=REPOSITORY)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_count_that_differs_is_marked_and_explained(counting: CommandLine) -> None:
    result = counting("params", "swin_base", "--markdown")
    rows = [line for line in result.out.splitlines() if line.startswith("| 1 | Swin")]
    cells = "Swin | Swin-Base | 150 | 1 | 90.6 | 90.702 ≠ | 90.5 | 90.587 ≠ | – | 0.115 | 0 | (2)"
    assert rows == [f"| 1 | {cells} |"]
    assert "(2) Counted with SegFormer's decoder at 768 channels;" in result.out
    assert "63,544 relative position biases" in result.out


def test_a_bundle_is_replaced_by_its_matrices(counting: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("matrices: [quickstart, camvid_5d]")
    rows = counting("params", str(tmp_path / "two.yaml"), "--json").json["rows"]
    assert {row["run"].partition(":")[0] for row in rows} == {"quickstart", "camvid_5d"}


def test_all_formats_have_the_same_counts(counting: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = counting("params", "resnet101", "--json", "--out", str(out))
    rows = result.json["rows"]
    assert {row["backbone"] for row in rows} == {"ResNet-101"}
    fcn = next(row for row in rows if row["method"] == "FCN" and row["classes"] == 150)
    assert (fcn["parametric"], fcn["protoseg"]) == (68_590_732, 68_513_782)
    assert fcn["parametric"] - fcn["protoseg"] == fcn["classifier"] == 150 * 513
    assert json.loads((out / "params.json").read_text())["rows"] == rows
    csv_rows = list(csv.DictReader(io.StringIO((out / "params.csv").read_text())))
    assert [int(row["parametric"]) for row in csv_rows] == [row["parametric"] for row in rows]
    assert (out / "params.md").read_text() == counting("params", "resnet101", "--markdown").out
    assert (out / "params.csv").read_text() == counting("params", "resnet101", "--csv").out
    assert sorted(path.name for path in out.iterdir()) == ["params.csv", "params.json", "params.md"]


def test_the_seeds_of_a_matrix_row_share_one_count(protoseg: CommandLine) -> None:
    rows = protoseg("params", "quickstart", "--json").json["rows"]
    assert [row["run"] for row in rows] == [
        "quickstart: Parametric, K = 1",
        "quickstart: ProtoSeg, K = 1",
        "quickstart: ProtoSeg, K = 4",
    ]
    parametric, one, four = rows
    assert (parametric["classifier"], parametric["prototype"]) == (6 * 65, 0)
    assert (one["prototype"], four["prototype"]) == (6 * 64, 6 * 4 * 64)
    assert one["learnable"] == four["learnable"]
    text = protoseg("params", "quickstart").out
    assert all(row["run"] in text for row in rows)


def test_overrides_describe_one_model(protoseg: CommandLine) -> None:
    result = protoseg("params", "backbone=mit_b0", "decoder=segformer_256", "--json")
    (row,) = result.json["rows"]
    assert (row["classes"], row["classifier"], row["prototype"]) == (6, 0, 6 * 10 * 256)
    assert row["learnable"] == 3_753_718 - 150 * 257


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mit_b9"], "unknown matrix or backbone 'mit_b9'. Did you mean 'mit_b"),
        (["quickstart", "mit_b0"], "name matrices or backbones, not both"),
        (["mit_b0", "decoder=fcn"], "take no overrides"),
        (["backbone=mit_b9"], "unknown backbone 'mit_b9'"),
    ],
)
def test_wrong_arguments_are_reported(
    arguments: list[str], message: str, protoseg: CommandLine
) -> None:
    result = protoseg("params", *arguments)
    assert result.status == 2
    assert message in result.err


def test_missing_and_malformed_published_counts_are_reported(protoseg: CommandLine) -> None:
    folder = protoseg.lab.runs.parent / "published"
    assert "cannot be read" in protoseg("params").err
    for content in ("rows: [", "rows: 3", "source: x\nnotes: {}\nrows: [{tables: [1]}]"):
        (folder / "params.yaml").write_text(content)
        result = protoseg("params")
        assert result.status == 1
        assert "not a file of published counts" in result.err
