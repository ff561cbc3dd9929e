"""``protoseg params`` and ``protoseg weights``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine, shell
from protoseg.training.weights import download


@pytest.fixture
def counting(protoseg: CommandLine, tmp_path: Path) -> CommandLine:
    shutil.copytree(
        REPOSITORY / "results" / "published", tmp_path / "published", dirs_exist_ok=True
    )
    return protoseg


def test_a_published_model_beside_ours(counting: CommandLine) -> None:
    answer = counting("params", "mit_b0")
    assert answer.status == 0
    (line,) = [line for line in answer.out.splitlines() if "MiT-B0" in line]
    assert line.split() == ["7", "SegFormer", "MiT-B0", "150", "1", "3.8", "3.754", "3.7",
                            "3.715", "–", "0.039", "0"]  # fmt: skip
    assert "≠" not in line


@pytest.mark.slow
def test_no_library_talks_over_the_table() -> None:
    answer = shell(["params", "mit_b0"], cwd=REPOSITORY)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_what_differs_is_marked_and_explained(counting: CommandLine) -> None:
    answer = counting("params", "swin_base", "--markdown")
    rows = [line for line in answer.out.splitlines() if line.startswith("| 1 | Swin")]
    cells = "Swin | Swin-Base | 150 | 1 | 90.6 | 90.702 ≠ | 90.5 | 90.587 ≠ | – | 0.115 | 0 | (2)"
    assert rows == [f"| 1 | {cells} |"]
    assert "(2) SegFormer's decoder at 768 channels on Swin-B." in answer.out
    assert "63,544 relative position biases" in answer.out


def test_a_bundle_counts_as_its_matrices(counting: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("matrices: [quickstart, camvid_5d]")
    rows = counting("params", str(tmp_path / "two.yaml"), "--json").json["rows"]
    assert {row["run"].partition(":")[0] for row in rows} == {"quickstart", "camvid_5d"}


def test_every_form_says_the_same(counting: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = counting("params", "resnet101", "--json", "--out", str(out))
    rows = answer.json["rows"]
    assert {row["backbone"] for row in rows} == {"ResNet-101"}
    fcn = next(row for row in rows if row["method"] == "FCN" and row["classes"] == 150)
    assert (fcn["parametric"], fcn["protoseg"]) == (68_590_732, 68_513_782)
    assert fcn["parametric"] - fcn["protoseg"] == fcn["classifier"] == 150 * 513
    assert json.loads((out / "params.json").read_text())["rows"] == rows
    written = list(csv.DictReader(io.StringIO((out / "params.csv").read_text())))
    assert [int(row["parametric"]) for row in written] == [row["parametric"] for row in rows]
    assert (out / "params.md").read_text() == counting("params", "resnet101", "--markdown").out
    assert (out / "params.csv").read_text() == counting("params", "resnet101", "--csv").out
    assert sorted(p.name for p in out.iterdir()) == ["params.csv", "params.json", "params.md"]


def test_a_matrix_has_one_row_for_all_seeds(protoseg: CommandLine) -> None:
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
    printed = protoseg("params", "quickstart").out
    assert all(row["run"] in printed for row in rows)


def test_one_run_by_overrides(protoseg: CommandLine) -> None:
    answer = protoseg("params", "backbone=mit_b0", "decoder=segformer_256", "--json")
    (row,) = answer.json["rows"]
    assert (row["classes"], row["classifier"], row["prototype"]) == (6, 0, 6 * 10 * 256)
    assert row["learnable"] == 3_753_718 - 150 * 257


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mit_b9"], "unknown matrix or backbone 'mit_b9'. Did you mean 'mit_b"),
        (["quickstart", "mit_b0"], "name matrices or backbones, not both"),
        (["mit_b0", "decoder=fcn"], "take no overrides"),
        (["backbone=mit_b9"], "unknown backbone 'mit_b9'"),
    ],
)
def test_words_that_fit_nothing(words: list[str], sentence: str, protoseg: CommandLine) -> None:
    answer = protoseg("params", *words)
    assert answer.status == 2
    assert sentence in answer.err


def test_published_counts_that_are_missing_or_damaged(protoseg: CommandLine) -> None:
    folder = protoseg.lab.runs.parent / "published"
    assert "can not be read" in protoseg("params").err
    for content in ("rows: [", "rows: 3", "source: x\nnotes: {}\nrows: [{tables: [1]}]"):
        (folder / "params.yaml").write_text(content)
        answer = protoseg("params")
        assert answer.status == 1
        assert "not a file of published counts" in answer.err


# Weights


def test_weights_are_listed_with_their_addresses(protoseg: CommandLine) -> None:
    rows = {row["backbone"]: row for row in protoseg("weights", "--json").json["weights"]}
    assert "tiny" not in rows
    b2 = rows["mit_b2"]
    assert b2["address"].endswith("/segformer/mit_b2_20220624-66e8bf70.pth")
    assert b2["here"] is False
    assert rows["mobilenet_v2"]["address"] == ""
    printed = protoseg("weights", "list").out
    assert b2["address"] in printed
    assert "none known" in printed


def test_weights_are_fetched_once(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the recipe is replaced by a file here; all else is as it is."""
    content = b"weights"
    (tmp_path / "w").write_bytes(content)
    monkeypatch.setattr(download, "address", lambda backbone: (tmp_path / "w").as_uri())
    assert "tiny: starts from random weights" in protoseg("weights", "get", "tiny").out
    answer = protoseg("weights", "get", "mit_b2")
    assert answer.status == 1
    assert "not the expected file" in answer.err
    place = protoseg.data / "weights" / "mit_b2_20220624-66e8bf70.pth"
    assert not place.exists()
    place.write_bytes(b"something else")
    answer = protoseg("weights", "get", "mit_b2")
    assert "not the weights that backbone mit_b2 names" in answer.err
    place.unlink()
    digits = hashlib.sha256(content).hexdigest()[:8]
    experiments = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", experiments)
    option = experiments / "backbone" / "mit_b2.yaml"
    option.write_text(option.read_text().replace('"66e8bf70"', f'"{digits}"'))
    for state in ("fetched", "there already"):
        answer = protoseg("weights", "--experiments", str(experiments), "get", "mit_b2")
        assert answer.status == 0, answer.err
        assert f"mit_b2: {state}, {place}" in answer.out
    assert place.read_bytes() == content


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["fetch"], 2, "unknown action 'fetch'"),
        (["list", "mit_b2"], 2, "takes no further words"),
        (["get"], 2, "name a backbone. Known: "),
        (["get", "mit_b9"], 2, "unknown backbone 'mit_b9'"),
        (["get", "mobilenet_v2"], 1, "no public address is known"),
    ],
)
def test_words_of_weights(
    words: list[str], status: int, sentence: str, protoseg: CommandLine
) -> None:
    answer = protoseg("weights", *words)
    assert answer.status == status
    assert sentence in answer.err
