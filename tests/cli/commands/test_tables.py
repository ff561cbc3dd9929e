"""``protoseg tables``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cli.conftest import CommandLine


def test_a_table_is_printed_and_written_in_four_formats(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    for number, run in enumerate(protoseg.quickstart()):
        protoseg.record(run, 70.0 + number)
    result = protoseg("tables", "quickstart")
    assert result.status == 0
    assert "71.00 ± 1.00" in result.out
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "quickstart.csv", "quickstart.html", "quickstart.md", "quickstart.tex",
        "quickstart_comparisons.csv", "quickstart_comparisons.tex", "quickstart_per_class.csv",
    ]  # fmt: skip
    markdown = protoseg("tables", "quickstart", "--markdown")
    assert markdown.out.strip() == (tmp_path / "tables" / "quickstart.md").read_text().strip()


def test_a_table_with_overrides_is_written_to_a_subfolder(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    protoseg("tables", "quickstart", "seed=0")
    (folder,) = (tmp_path / "tables").iterdir()
    assert folder.name.startswith("overrides-")


def test_keep_records_copies_records_and_confusion_counts(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    digest = hashlib.sha256(b"counts").hexdigest()
    path = protoseg.record(run, 70.0, in_runs=True, confusion={"sha256": digest})
    (path.parent / "confusion.npz").write_bytes(b"counts")
    assert protoseg("tables", "quickstart", "--keep-records").status == 0
    assert (protoseg.lab.records / f"{run.run_id}.json").read_bytes() == path.read_bytes()
    assert (protoseg.lab.records / f"{run.run_id}.npz").read_bytes() == b"counts"


def test_two_different_records_of_one_run_are_an_error(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    protoseg.record(run, 71.0, in_runs=True)
    result = protoseg("tables", "quickstart")
    assert result.status == 1
    assert "two different results of run" in result.err


def test_an_empty_folder_of_results_uses_the_published_numbers_and_records_of_the_program(
    protoseg: CommandLine, shipped_results: Path
) -> None:
    answer = protoseg("tables", "paper_table7")
    assert answer.status == 0, answer.err
    assert "Published" in answer.out
    answer = protoseg("tables", "camvid_methods")
    assert "43.35 ± 0.58" in answer.out
    answer = protoseg("verify")
    assert answer.status == 0, answer.err
    assert "camvid_methods: compared with records that come with the program" in answer.out
    assert not list((protoseg.lab.folder / "records").iterdir())


def test_published_numbers_of_the_results_folder_come_first(
    protoseg: CommandLine, shipped_results: Path
) -> None:
    name = "paper_table7.yaml"
    text = (shipped_results / "published" / name).read_text()
    protoseg.lab.published.mkdir(exist_ok=True)
    (protoseg.lab.published / name).write_text(re.sub("(?m)^source: .*", "source: Mine.", text))
    answer = protoseg("tables", "paper_table7", "--markdown")
    assert answer.status == 0, answer.err
    assert "Mine." in answer.out
