"""``protoseg tables``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli import context
from protoseg.config.load_matrix import load_matrix

EXPERIMENTS = REPOSITORY / "experiments"
EVERY = "evaluation.every=50"


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


def record_curves(protoseg: CommandLine) -> None:
    """Records of the quickstart with 11 evaluations; the fourth is the best, at 60 + seed."""
    for run in load_matrix(context.Composer(EXPERIMENTS), "quickstart", [EVERY]).runs:
        mious = [50.0] * 11
        mious[3] = 60.0 + run.spec.seed
        iou = [50.0] * len(run.spec.dataset.classes)
        points = [
            {"iteration": 50 * i, "miou": m, "macc": m, "aacc": m, "iou": iou, "loss": 1.0}
            for i, m in enumerate(mious, 1)
        ]
        protoseg.record(run, 50.0, curve=points)


def test_the_best_table_is_written_beside_the_table(protoseg: CommandLine, tmp_path: Path) -> None:
    record_curves(protoseg)
    answer = protoseg("tables", "quickstart", EVERY, "--best")
    assert (answer.status, answer.err) == (0, "")
    assert "61.00 ± 1.00" in answer.out
    assert "The best of 11 evaluations on the way, chosen on the evaluated split: an" in answer.out
    assert "50.00 ± 0.00" in protoseg("tables", "quickstart", EVERY).out
    (folder,) = (tmp_path / "tables").iterdir()  # of these overrides
    assert {path.name for path in folder.iterdir()} == {
        f"quickstart{best}{rest}"
        for best in ("", "_best")
        for rest in (
            *(".csv", ".html", ".md", ".tex", "_per_class.csv"),
            *("_comparisons.csv", "_comparisons.tex"),
        )
    }
    notes = [
        [line for line in (folder / name).read_text().splitlines() if line.startswith("- ")]
        for name in ("quickstart_best.md", "quickstart.md")
    ]
    assert notes[0][0].startswith("- The best of 11 evaluations on the way")
    assert notes[0][1:] == notes[1], "one more footnote, the first"


def test_figures_draws_learning_curves_if_records_have_them(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    record_curves(protoseg)
    answer = protoseg("figures", "quickstart", EVERY, "--json")
    assert (answer.status, answer.err) == (0, "")
    assert [*answer.json["figures"]["quickstart"]] == ["metric", "curves"]
    (folder,) = (tmp_path / "figures").iterdir()
    assert (folder / "quickstart_curves.svg").is_file()


def test_a_matrix_without_metrics_on_the_way_has_no_best_table(protoseg: CommandLine) -> None:
    answer = protoseg("tables", "quickstart", "--best")
    assert answer.status == 2
    assert "quickstart: --best: 9 of 9 runs are evaluated at the end alone, for" in answer.err


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
