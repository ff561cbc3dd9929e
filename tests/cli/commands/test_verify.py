"""``protoseg verify`` on copies of committed results, intact and damaged."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.runs import case, saved
from recorded import parametric_on_camvid
from waiting import DEADLINE

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli import main
from protoseg.runs.record import seal

MATRIX = "small"
CONTENT = """\
title: Two parametric heads
base: {dataset: camvid, backbone: mobilenet_v2, decoder: segformer_128,
  augmentation: camvid_256, schedule: cpu_300}
rows:
  - {label: "Parametric, K = 1", method: parametric}
  - {label: "Parametric, K = 10", method: parametric, method.num_prototypes: 10}
seeds: [0, 1, 2]
table:
  metrics: [miou, macc, aacc, parameters]
  baseline: {label: "Parametric, K = 1"}
"""
"""A part of the matrix `camvid_methods`, whose runs have committed records."""
RUN = "camvid-mobilenet_v2-segformer-parametric-k1-s1-c13d104cbb"
ROW, OTHER = "Parametric, K = 1", "Parametric, K = 10"


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config groups, and one matrix: CONTENT."""
    folder = tmp_path_factory.mktemp("experiments")
    ignore = shutil.ignore_patterns("matrices")
    shutil.copytree(REPOSITORY / "experiments", folder, ignore=ignore, dirs_exist_ok=True)
    (folder / "matrices").mkdir()
    (folder / "matrices" / f"{MATRIX}.yaml").write_text(CONTENT)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, experiments: Path) -> Path:
    """Committed records and the table that `protoseg tables` builds from them."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "records").mkdir()
    for path in parametric_on_camvid(1, 10):
        shutil.copy(path, folder / "records")
        shutil.copy(path.with_suffix(".npz"), folder / "records")
    places = ["--results", str(folder), "--runs", str(folder / "none")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["tables", *places, "--experiments", str(experiments), MATRIX]) == 0
    suffixes = ["csv", "html", "md", "tex", "comparisons.csv", "comparisons.tex", "per_class.csv"]
    assert sorted(path.name for path in (folder / "tables").iterdir()) == sorted(
        f"{MATRIX}{'_' if '.' in suffix else '.'}{suffix}" for suffix in suffixes
    )
    return folder


@pytest.fixture
def results(whole: Path, experiments: Path, protoseg: CommandLine, tmp_path: Path) -> Path:
    """A copy that a test may damage; `protoseg` verifies it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    protoseg.paths[:2] = ["--experiments", str(experiments)]
    return tmp_path


def record_of(results: Path, run: str = RUN) -> dict[str, Any]:
    return json.loads((results / "records" / f"{run}.json").read_text())


def write_record(results: Path, record: dict[str, Any], run: str = RUN) -> None:
    """Write a changed record with the digest of its new content."""
    changed = seal({key: value for key, value in record.items() if key != "digest"})
    (results / "records" / f"{run}.json").write_text(json.dumps(changed))


def problems(protoseg: CommandLine, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Group of checks -> its problems, without the groups that have none."""
    answer = protoseg("verify", *arguments, "--json")
    assert answer.err == ""
    checks = answer.json["checks"]
    result = {check["group"]: check["problems"] for check in checks if check["problems"]}
    assert answer.status == (1 if result else 0)
    assert answer.json["sound"] is not bool(result)
    return result


def test_intact_results_have_no_problems(protoseg: CommandLine, results: Path) -> None:
    answer = protoseg("verify")
    assert (answer.status, answer.err) == (0, "")
    lines = [line.split()[:3] for line in answer.out.splitlines()[1:]]
    assert lines[:3] == [["records", "6", "ok"], ["counts", "6", "ok"],
                         ["metrics", "222", "ok"]]  # fmt: skip
    assert ["tables", "7", "ok"] in lines
    assert problems(protoseg) == {}


def test_a_flipped_byte_in_the_counts_is_found(protoseg: CommandLine, results: Path) -> None:
    path = results / "records" / f"{RUN}.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = problems(protoseg)
    assert list(result) == ["counts"]
    assert result["counts"][0]["file"] == f"records/{RUN}.npz"
    answer = protoseg("verify")
    assert f"records/{RUN}.npz: the confusion counts do not match" in answer.err


@pytest.mark.parametrize("key", ["miou", "macc", "aacc", "images"])
def test_an_edited_metric_with_a_valid_digest_is_found_from_the_counts(
    protoseg: CommandLine, results: Path, key: str
) -> None:
    record = record_of(results)
    before = record["metrics"][key]
    record["metrics"][key] += 1e-7 if key != "images" else 1
    write_record(results, record)
    (problem,) = problems(protoseg)["metrics"]
    assert (problem["file"], problem["column"]) == (f"records/{RUN}.json", key)
    assert str(record["metrics"][key]) in problem["message"]
    assert str(before)[:12] in problem["message"]


def add_curve(record: dict[str, Any], miou: float = 40.0) -> None:
    """Metrics on the way: one evaluation before that of the record."""
    ious = [entry["iou"] for entry in record["per_class"]]
    metrics = {key: record["metrics"][key] for key in ("miou", "macc", "aacc")}
    first = {**metrics, "iteration": 150, "miou": miou, "iou": [40.0, *([None] * 10)], "loss": 1.0}
    record["curve"] = [first, {**metrics, "iteration": 300, "iou": ious, "loss": 0.5}]


def test_metrics_on_the_way_are_recomputed(protoseg: CommandLine, results: Path) -> None:
    record = record_of(results)
    add_curve(record)
    write_record(results, record)
    assert problems(protoseg) == {}
    add_curve(record, 41.0)
    record["curve"][1]["aacc"] += 1
    write_record(results, record)
    wrong = {problem["column"]: problem["message"] for problem in problems(protoseg)["metrics"]}
    assert set(wrong) == {"miou at iteration 150", "aacc of the last evaluation"}
    assert "the record has 41.0, its counts give 40.0" in wrong["miou at iteration 150"]
    record["curve"] = ["no point", 3]
    write_record(results, record)
    names = [problem["column"] for problem in problems(protoseg)["metrics"]]
    assert names == [f"{key} of the last evaluation" for key in ("miou", "macc", "aacc")]


def test_edited_values_of_a_class_are_found(protoseg: CommandLine, results: Path) -> None:
    record = record_of(results)
    record["per_class"][8]["iou"] += 1
    record["per_class"][9]["pixels"] -= 1
    record["per_class"][0]["acc"] = None
    write_record(results, record)
    result = problems(protoseg)
    assert [p["column"] for p in result["metrics"]] == [
        *("acc of sky", "iou of car", "pixels of pedestrian"),
    ]
    columns = {(p["row"], p["column"]) for p in result["tables"]}
    assert (f"{ROW}, car", "mean") in columns, "the per-class table differs too"


def test_classes_in_another_order_are_found(protoseg: CommandLine, results: Path) -> None:
    record = record_of(results)
    record["per_class"].reverse()
    write_record(results, record)
    assert problems(protoseg)["metrics"][0]["column"] == "per_class"


def test_wrong_counts_with_a_valid_digest_are_found(protoseg: CommandLine, results: Path) -> None:
    record = record_of(results)
    path = results / "records" / f"{RUN}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["cell"][0] = 11 * 11
    np.savez(path, **arrays)
    record["confusion"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_record(results, record)
    (problem,) = problems(protoseg)["counts"]
    assert "outside its 11×11 matrix" in problem["message"]
    path.write_bytes(b"no archive")
    record["confusion"]["sha256"] = hashlib.sha256(b"no archive").hexdigest()
    write_record(results, record)
    (problem,) = problems(protoseg)["counts"]
    assert "cannot be read" in problem["message"]


def truncated(text: str) -> str:
    """The first half of a text."""
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncated, "torn record"),
        (lambda text: text.replace('"attempts": 1', '"attempts": 2'), "edited or damaged"),
        (lambda _: "{}", "no schema_version"),
    ],
)
def test_a_damaged_record_and_the_cells_that_depend_on_it_are_found(
    protoseg: CommandLine, results: Path, damage: Callable[[str], str], sentence: str
) -> None:
    path = results / "records" / f"{RUN}.json"
    path.write_text(damage(path.read_text()))
    result = problems(protoseg)
    assert set(result) == {"records", "tables"}
    (problem,) = result["records"]
    assert sentence in problem["message"]
    cells = {(p["file"], p["row"], p["column"]) for p in result["tables"]}
    assert ("tables/small.csv", f"{ROW}, miou", "mean") in cells
    assert "tables/small.md" in {file for file, _, _ in cells}


def test_a_record_with_another_name_or_spec_is_found(protoseg: CommandLine, results: Path) -> None:
    record = record_of(results)
    record["spec"]["schedule"]["iterations"] += 1
    write_record(results, record)
    messages = [problem["message"] for problem in problems(protoseg)["records"]]
    assert "its spec_digest does not match its spec." in messages
    assert any(message.startswith("its spec belongs to run camvid-") for message in messages)
    other = results / "records" / RUN.replace("-s1-", "-s9-")
    shutil.copy(results / "records" / f"{RUN}.npz", f"{other}.npz")
    shutil.move(results / "records" / f"{RUN}.json", f"{other}.json")
    assert f"is the record of {RUN}." in [p["message"] for p in problems(protoseg)["records"]]


def test_a_deleted_record_leaves_an_unused_file_and_changed_cells(
    protoseg: CommandLine, results: Path
) -> None:
    (results / "records" / f"{RUN}.json").unlink()
    result = problems(protoseg)
    assert [p["file"] for p in result["litter"]] == [f"records/{RUN}.npz"]
    assert set(result) == {"litter", "tables"}
    answer = protoseg("verify")
    assert f"small: 1 of its runs have no record: {RUN}" in answer.out
    assert re.search(rf"small\.md: line \d+: the file has '\| {ROW} .*43\.35 ± 0\.58", answer.err)
    assert re.search(rf"row '{ROW}, miou', column 'n': the file has '3', .* give '2'", answer.err)
    assert "2 of 3 seeds" in answer.err


EDITS = {
    "md": ("43.35 ± 0.58", "44.35 ± 0.58"),
    "tex": ("43.35 &", "44.35 &"),
    "html": ("43.35 <span", "44.35 <span"),
}


@pytest.mark.parametrize("ending", EDITS)
def test_a_changed_cell_of_a_text_format_is_named_by_its_line(
    protoseg: CommandLine, results: Path, ending: str
) -> None:
    path = results / "tables" / f"{MATRIX}.{ending}"
    before, after = EDITS[ending]
    lines = path.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, start=1) if before in line]
    edited = lines[number - 1].replace(before, after)
    path.write_text("\n".join([*lines[: number - 1], edited, *lines[number:], ""]))
    result = problems(protoseg)
    assert list(result) == ["tables"]
    (problem,) = result["tables"]
    assert problem["message"].startswith(f"line {number}: the file has '")
    assert (problem["committed"], problem["rebuilt"]) == (edited, lines[number - 1])
    answer = protoseg("verify")
    assert answer.err.startswith(f"tables/{path.name}: line {number}: the file has '")
    assert len(answer.err.splitlines()) == 1


def test_a_changed_cell_of_a_csv_file_is_named_by_row_and_column(
    protoseg: CommandLine, results: Path
) -> None:
    path = results / "tables" / f"{MATRIX}.csv"
    text = path.read_text()
    before = next(cell for cell in text.splitlines()[1].split(",") if cell.startswith("43.3"))
    assert text.count(before) == 1
    path.write_text(text.replace(before, "44" + before[2:]))
    result = problems(protoseg)
    assert list(result) == ["tables"]
    (problem,) = result["tables"]
    assert (problem["row"], problem["column"]) == (f"{ROW}, miou", "mean")
    assert (problem["committed"], problem["rebuilt"]) == ("44" + before[2:], before)
    answer = protoseg("verify")
    assert answer.err.startswith(
        f"tables/{path.name}: row '{ROW}, miou', column 'mean': the file has '44"
    )
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("suffix", ["csv", "tex"])
def test_a_changed_p_of_a_comparison_is_found(
    protoseg: CommandLine, results: Path, suffix: str
) -> None:
    path = results / "tables" / f"{MATRIX}_comparisons.{suffix}"
    text = path.read_text()
    assert "0.56" in text
    path.write_text(text.replace("0.56", "0.04"))
    result = problems(protoseg)
    assert list(result) == ["tables"]
    assert {problem["file"] for problem in result["tables"]} == {f"tables/{path.name}"}
    path.write_text(text)
    assert problems(protoseg) == {}


def test_a_changed_footnote_a_missing_file_and_a_truncated_table_are_found(
    protoseg: CommandLine, results: Path
) -> None:
    tables = results / "tables"
    path = tables / f"{MATRIX}.md"
    path.write_text(path.read_text().replace("- Δ: difference", "- Δ: distance"))
    (tables / f"{MATRIX}.tex").unlink()
    page = (tables / f"{MATRIX}.html").read_text()
    (tables / f"{MATRIX}.html").write_text(page[: page.index(OTHER)])
    result = problems(protoseg)["tables"]
    by_file = {p["file"].rpartition(".")[2]: p for p in result}
    assert by_file["md"]["message"].startswith("line ")
    assert "difference in mIoU" in by_file["md"]["rebuilt"]
    assert by_file["tex"]["message"].startswith("is missing")
    lost = [p["rebuilt"] for p in result if p["file"].endswith("html")]
    assert any(line is not None and OTHER in line for line in lost)


def test_other_line_endings_are_a_difference(protoseg: CommandLine, results: Path) -> None:
    path = results / "tables" / f"{MATRIX}.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (problem,) = problems(protoseg)["tables"]
    assert problem["message"] == "differs only in its layout, first in line 1."


def other_matrix(tmp_path: Path, experiments: Path, content: str) -> list[str]:
    """Write a changed matrix, and return the option with its experiments folder."""
    shutil.copytree(experiments, tmp_path / "experiments")
    (tmp_path / "experiments" / "matrices" / f"{MATRIX}.yaml").write_text(content)
    return ["--experiments", str(tmp_path / "experiments")]


def test_a_table_without_a_valid_matrix_is_found(
    protoseg: CommandLine, results: Path, experiments: Path, tmp_path: Path
) -> None:
    for path in list((results / "tables").iterdir()):
        shutil.copy(path, path.with_name(path.name.replace(MATRIX, "gone")))
    (problem,) = problems(protoseg)["tables"]
    assert problem["file"] == "tables/gone"
    assert "there is no matrix of this name" in problem["message"]
    text = other_matrix(tmp_path, experiments, CONTENT + "surprise: 1\n")
    result = problems(protoseg, *text)["tables"]
    assert {p["file"] for p in result} == {"tables/gone", f"tables/{MATRIX}"}
    assert any("unknown key 'surprise'" in p["message"] for p in result)


def test_only_the_named_matrix_is_checked(protoseg: CommandLine, results: Path) -> None:
    (results / "records" / "stray.npz").write_bytes(b"")
    assert list(problems(protoseg)) == ["litter"]
    assert problems(protoseg, MATRIX) == {}
    shutil.rmtree(results / "tables")
    answer = protoseg("verify", MATRIX)
    assert answer.status == 0
    assert "small: has no table in results/tables" in answer.out
    assert protoseg("verify", "nowhere").status == 2
    answer = protoseg("verify", MATRIX, "seed=1")
    assert answer.status == 2
    assert "a changed matrix has no committed table" in answer.err


def test_a_record_without_a_matrix_is_a_note_and_no_problem(
    protoseg: CommandLine, results: Path, experiments: Path, tmp_path: Path
) -> None:
    shutil.rmtree(results / "tables")
    text = other_matrix(tmp_path, experiments, CONTENT.replace("[0, 1, 2]", "[0, 2]"))
    answer = protoseg("verify", *text)
    assert (answer.status, answer.err) == (0, "")
    assert f"2 in no matrix: {RUN}, " in answer.out


def test_files_that_git_ignores_are_not_checked(protoseg: CommandLine, results: Path) -> None:
    """`make quickstart` writes a table of uncommitted runs, which git ignores."""
    (results / "tables" / "quickstart.md").write_text("## made of run folders\n")
    assert problems(protoseg)["tables"]
    subprocess.run(["git", "init", "-q", str(results)], check=True, timeout=DEADLINE)
    (results / ".gitignore").write_text("/tables/quickstart*\n")
    assert problems(protoseg) == {}


# Diffs of uncommitted changes


def with_diffs(results: Path) -> list[Path]:
    """Write a record whose two attempts had different uncommitted changes, and their diffs."""
    record = record_of(results)
    texts = (b"diff of the last attempt\n", b"diff of the first attempt\n")
    last, first = (hashlib.sha256(text).hexdigest() for text in texts)
    name = f"code-{first[:10]}.diff"
    record["provenance"] |= {
        "dirty": True,
        "diff_file": "code.diff",
        "diff_sha256": last,
        "attempts": [
            {"first": 1, "last": 1, "commit": "a", "diff_sha256": first, "diff_file": name},
            {"first": 2, "last": 2, "commit": "a", "diff_sha256": last, "diff_file": "code.diff"},
        ],
    }
    write_record(results, record)
    paths = [results / "records" / f"{RUN}{middle}.diff" for middle in ("", f".{first[:10]}")]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    return paths


def test_diffs_are_compared_with_their_digests(protoseg: CommandLine, results: Path) -> None:
    last, first = with_diffs(results)
    answer = protoseg("verify")
    assert "code             2  ok" in answer.out
    assert f"{RUN}: its attempts ran different code" in answer.out
    last.write_bytes(b"another\n")
    first.unlink()
    result = problems(protoseg)["code"]
    assert [p["file"] for p in result] == [f"records/{last.name}", f"records/{first.name}"]
    assert ["does not match" in result[0]["message"], "gone" in result[1]["message"]] == [
        True,
        True,
    ]


def test_a_diff_of_no_record_is_an_unused_file(protoseg: CommandLine, results: Path) -> None:
    stray = results / "records" / f"{RUN}.diff"
    stray.write_bytes(b"x")
    (problem,) = problems(protoseg)["litter"]
    assert problem["file"] == f"records/{stray.name}"


def test_a_record_without_the_diff_of_its_changes_is_noted(
    protoseg: CommandLine, results: Path
) -> None:
    record = record_of(results)
    record["provenance"] |= {"dirty": True, "diff_sha256": "0" * 64}
    record["provenance"]["lock_differs"] = {"numpy": ["2.4.6", "2.0.0"]}
    write_record(results, record)
    out = protoseg("verify", MATRIX).out
    assert f"1 with uncommitted changes but without a diff: {RUN}" in out
    assert "packages of another version than the lock file: numpy (in 1)" in out


# Benchmarks


def test_tables_of_saved_benchmarks_are_rebuilt(protoseg: CommandLine, results: Path) -> None:
    folder = results / "benchmarks"
    folder.mkdir()
    path = folder / "machine-2026-01-01.json"
    path.write_text(json.dumps(saved(case("small", 1e-3, loop=2e-3), case("large", 1.0))))
    assert protoseg("tables", str(path)).status == 0
    assert "benchmarks       3  ok" in protoseg("verify").out
    for ending, before in ((".md", "2.00 ms"), (".tex", "2.00 ms"), (".csv", ",0.002,")):
        form = path.with_suffix(ending)
        good = form.read_text()
        assert before in good
        form.write_text(good.replace(before, before.replace("2", "9")))
        (problem,) = problems(protoseg)["benchmarks"]
        if ending == ".csv":
            assert problem["row"] == "clustering, small, loop"
        else:
            assert problem["message"].startswith("line ")
        assert "9" in problem["committed"]
        form.write_text(good)
    (folder / "overhead.json").write_text('{"iterations": 100}')
    assert "overhead.json: no saved run" in protoseg("verify").out
    for damaged in ('{"cases": [', '{"schema_version": 1, "cases": [{"group": 1}]}'):
        path.write_text(damaged)
        assert f"benchmarks/{path.name}" in {p["file"] for p in problems(protoseg)["benchmarks"]}
    path.unlink()
    assert len(problems(protoseg)["benchmarks"]) == 3


@pytest.fixture
def unpublished(results: Path, protoseg: CommandLine) -> Path:
    """Results whose records are in run folders only, with a table and figures made from them."""
    for path in sorted((results / "records").glob("*.json")):
        folder = protoseg.lab.runs / path.stem
        folder.mkdir(parents=True)
        path.rename(folder / "record.json")
        path.with_suffix(".npz").rename(folder / "confusion.npz")
    assert protoseg("tables", MATRIX).status == 0
    assert protoseg("figures", MATRIX).status == 0
    return results


def test_results_of_runs_without_committed_records_agree_with_their_run_folders(
    protoseg: CommandLine, unpublished: Path
) -> None:
    for operands in ((), (MATRIX,)):
        answer = protoseg("verify", *operands)
        assert answer.status == 0, answer.err
        (line,) = (line for line in answer.out.splitlines() if "not published" in line)
        assert f"To publish: protoseg tables {MATRIX} --keep-records" in line
        assert re.search(r"^runs +6  ok", answer.out, re.MULTILINE)
    assert protoseg("tables", MATRIX, "--keep-records").status == 0
    answer = protoseg("verify")
    assert answer.status == 0, answer.err
    assert "not published" not in answer.out


def test_a_wrong_number_is_found_without_committed_records(
    protoseg: CommandLine, unpublished: Path
) -> None:
    path = unpublished / "tables" / f"{MATRIX}.md"
    (value,) = set(re.findall(r"43\.35", path.read_text()))
    path.write_text(path.read_text().replace(value, "44.35"))
    answer = protoseg("verify")
    assert answer.status == 1
    (line,) = (line for line in answer.err.splitlines() if "small.md" in line)
    assert "44.35" in line
    assert "43.35" in line
    assert "not run" not in line


def test_changed_counts_of_a_run_folder_are_found(protoseg: CommandLine, unpublished: Path) -> None:
    path = protoseg.lab.runs / RUN / "confusion.npz"
    path.write_bytes(path.read_bytes()[:-1])
    answer = protoseg("verify")
    assert answer.status == 1
    assert f"{RUN}/confusion.npz" in answer.err


def test_a_table_of_deleted_run_folders_is_a_problem(
    protoseg: CommandLine, unpublished: Path
) -> None:
    shutil.rmtree(protoseg.lab.runs)
    answer = protoseg("verify")
    assert answer.status == 1
    assert "not run" in answer.err
