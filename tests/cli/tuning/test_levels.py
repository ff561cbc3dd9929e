"""A search that selects by a metric of a level of a tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report.levels import finish

from cli.conftest import CommandLine
from cli.tuning.conftest import Tuned
from protoseg.runs.results.choice import read_choice


def test_a_search_selects_by_a_level(protoseg: CommandLine, tuned: Tuned, tmp_path: Path) -> None:
    tree = "{round: [disk, ring], flat: [ground, box, triangle, bar]}"
    tuned.change("dataset: shapes\n", f"dataset: shapes\n  dataset.hierarchy: {tree}\n")
    tuned.change("metric: miou", "metric: aacc@2")
    # Trial 2 of the first row and 3 of the second have the fewest mistakes between the groups.
    for run, mistakes in zip(tuned.trials(), (9, 1, 5, 8, 4, 2), strict=True):
        counts = np.diag([50] * 6)
        counts[0, 1] = mistakes
        counts[0, 2] = 20 - mistakes
        finish(protoseg.lab, run.spec, counts, in_runs=True)
    tuned.record_finals((2, 3))
    result = protoseg("sweep", tuned.path)
    assert (result.status, result.err) == (0, "")
    choice = read_choice(tuned.choice)
    assert [row["chosen"] for row in choice["rows"]] == [2, 3]
    values = [trial["value"] for row in choice["rows"] for trial in row["trials"]]
    assert values == [pytest.approx(100 * (320 - n) / 320) for n in (9, 1, 5, 8, 4, 2)]
    assert "aAcc, level 2" in protoseg("tables", tuned.path, "--trials").out
    figures = protoseg("figures", tuned.path, "--kind", "trials", "--json").json["figures"]
    assert "aAcc, level 2" in figures["tuned"]["trials"]["notes"][0]
    # The final runs have no counts here. The table has no metric of a level, so none is missing.
    assert protoseg("tables", tuned.path).status == 0
    page = protoseg("report", tuned.path, "--json")
    assert page.status == 0
    text = (tmp_path / "pages" / "tuned.html").read_text()
    assert "aAcc, level 2" in text
    assert f"{100 * 319 / 320:.2f}" in text
