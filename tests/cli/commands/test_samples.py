"""``protoseg samples``: made for old runs, kept, published, checked, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic_samples import make_samples, write_samples
from training.small import make_folder, small_spec, work

from cli.conftest import CommandLine
from protoseg.report.verify.samples import check_samples
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import publish, read_record
from protoseg.runs.results.samples import read_samples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder in which the built-in data set is generated once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that finished before samples existed."""
    spec = small_spec("schedule.iterations=4")
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    status, output = work(folder)
    assert status == 0, output
    folder.samples.unlink()
    return folder


@pytest.fixture
def run(protoseg: CommandLine, finished: RunFolder) -> RunFolder:
    """The finished run in the runs folder of a call."""
    path = protoseg.lab.runs / finished.run_id
    shutil.copytree(finished.path, path)
    return RunFolder(path)


def make(protoseg: CommandLine, data: Path, *arguments: str) -> Any:
    return protoseg("samples", *arguments, "--data", str(data))


def results_of(protoseg: CommandLine) -> Path:
    return protoseg.lab.records.parent


def test_samples_are_made_once_and_published(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    result = make(protoseg, data, run.run_id, "--publish", "--json")
    assert result.status == 0, result.err
    (entry,) = json.loads(result.out)["samples"]
    assert entry["new"]
    content = run.samples.read_bytes()
    published = results_of(protoseg) / "samples" / f"{run.run_id}.npz"
    assert read_samples(published).meta["source"] == read_samples(run.samples).digest
    result = make(protoseg, data, run.run_id, "--publish")
    assert result.status == 0
    assert f"{run.run_id}  exist: " in result.out
    assert run.samples.read_bytes() == content
    # The record itself was not changed, and verify compares the two.
    publish(run.path, results_of(protoseg) / "records")
    check = check_samples(results_of(protoseg))
    assert (check.count, check.problems) == (1, [])


def test_verify_names_wrong_samples(protoseg: CommandLine, run: RunFolder, data: Path) -> None:
    assert make(protoseg, data, run.run_id, "--publish").status == 0
    results = results_of(protoseg)
    folder, name = results / "samples", f"samples/{run.run_id}.npz"
    problems = check_samples(results).problems
    assert [(p.file, p.message) for p in problems] == [(name, "its run has no record.")]
    publish(run.path, results / "records")
    (folder / "notes.txt").write_text("x")
    (problem,) = check_samples(results).problems
    assert problem.file == "samples/notes.txt"
    assert check_samples(results, [run.run_id]).problems == []
    assert check_samples(results, []).count == 0
    (folder / "notes.txt").unlink()
    original = read_samples(folder / f"{run.run_id}.npz")
    original.arrays["image_miou"][0] += 0.1
    original.arrays["confusion_count"][0] += 1
    write_samples(original, folder / f"{run.run_id}.npz")
    messages = [problem.message for problem in check_samples(results).problems]
    assert len(messages) == 2
    assert messages[0] == "its confusion matrix differs from the counts of the record."
    assert messages[1] == f"its mIoU of {original.images[0]} differs from the counts of the record."
    (folder / f"{run.run_id}.npz").write_bytes(run.samples.read_bytes())
    (problem,) = check_samples(results).problems
    assert "is not the published form of at most 100 kB" in problem.message


def test_other_samples_are_kept(protoseg: CommandLine, run: RunFolder, data: Path) -> None:
    state = read_record(run.record)["provenance"]["state_sha256"]
    other = make_samples(run.run_id, state)
    published = write_samples(other, results_of(protoseg) / "samples" / f"{run.run_id}.npz")
    content = published.read_bytes()
    result = make(protoseg, data, run.run_id, "--publish")
    assert result.status == 1
    assert "holds other samples" in result.err
    assert published.read_bytes() == content
    write_samples(make_samples(run.run_id, "another state"), run.samples)
    result = make(protoseg, data, run.run_id)
    assert result.status == 1
    assert "of another model than the record" in result.err


def test_a_run_that_cannot_have_samples_is_named(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    shutil.rmtree(run.checkpoints)
    result = make(protoseg, data, run.run_id)
    assert result.status == 1
    assert f"no valid checkpoint of {run.run_id}" in result.err
    result = make(protoseg, tmp_path / "nowhere")
    assert result.status == 2
    assert "no matrix or run is named" in result.err
    run.record.unlink()
    result = make(protoseg, data, run.run_id)
    assert result.status == 1
    assert f"has no record of {run.run_id}. Samples need the folder of a finished run" in result.err
