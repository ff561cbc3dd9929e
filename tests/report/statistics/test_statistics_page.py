"""The worked example and the error rates of docs/statistics.md, computed again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import scipy.stats

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")


def numbers_of(text: str) -> list[float]:
    """All numbers of a text."""
    return [float(part) for part in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def read_miou(label: str) -> dict[int, float]:
    """Seed -> mIoU of a row of camvid_methods, from the file of its table and the records."""
    table = (ROOT / "results" / "tables" / "camvid_methods.csv").read_text(encoding="utf-8")
    line = next(line for line in table.splitlines() if line.startswith(f'"{label}"'))
    run_ids = re.findall(r"camvid-\S+-s\d+-[0-9a-f]{10}", line)
    records = [
        json.loads((ROOT / "results" / "records" / f"{run_id}.json").read_text())
        for run_id in run_ids
    ]
    return {record["spec"]["seed"]: record["metrics"]["miou"] for record in records}


def test_the_worked_example_follows_from_the_records() -> None:
    section = PAGE.partition("## A worked example")[2].partition("\n## ")[0]
    introduction, first, second, third, fourth = re.split(r"\n\d\. ", section)
    ours, theirs = map(read_miou, ("ProtoSeg (paper), K = 10", "Parametric, K = 1"))
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours)])
    shown = numbers_of(introduction.partition("three differences to")[2])[1:]  # after "K = 1"
    np.testing.assert_allclose(shown, differences, atol=5e-5)

    std = differences.std(ddof=1)
    test = scipy.stats.ttest_1samp(differences, 0)
    error = std / np.sqrt(3)
    expected = [differences.mean(), std, 3, error, test.statistic]
    np.testing.assert_allclose(numbers_of(first), expected, atol=5e-5)

    quantile = scipy.stats.t.ppf(0.975, 2)
    interval = test.confidence_interval(0.95)
    expected = [2, test.pvalue, 0.975, quantile, *interval, 0]
    shown = numbers_of(second.replace("₀.₉₇₅", "0.975"))
    np.testing.assert_allclose(shown, expected, atol=5e-5)

    base = read_miou("Parametric, K = 1")
    labels = re.findall(
        r'^"([^"]+)"', (ROOT / "results/tables/camvid_methods.csv").read_text(), re.MULTILINE
    )
    rows = [label for label in dict.fromkeys(labels) if label != "Parametric, K = 1"]
    p_values = sorted(
        scipy.stats.ttest_1samp([read_miou(row)[s] - base[s] for s in sorted(base)], 0).pvalue
        for row in rows
    )
    rank = p_values.index(min(p_values, key=lambda p: abs(p - test.pvalue)))
    adjusted = max((len(rows) - j) * p_values[j] for j in range(rank + 1))
    assert (len(rows), rank, len(rows) - rank) == (7, 4, 3)
    np.testing.assert_allclose(numbers_of(third), [7, 3, adjusted], atol=5e-5)

    detectable, power, level, count = numbers_of(fourth)
    assert (power, level, count) == (80, 0.05, 7)
    critical = scipy.stats.t.ppf(1 - 0.05 / 7 / 2, 2)
    bounds = np.array([detectable - 0.005, detectable + 0.005])
    below, above = scipy.stats.nct.sf(critical, 2, bounds / error)
    assert below < 0.8 < above


def test_the_error_rates_of_the_page_are_those_of_the_saved_simulation() -> None:
    saved = json.loads((ROOT / "results" / "campaigns" / "error_rates.json").read_text())
    rates = {f"{100 * case['rate']:.1f}" for case in saved}
    section = PAGE.partition("## How often this is wrong")[2].partition("\n## ")[0]
    shown = {
        number
        for line in section.splitlines()
        if line.startswith("|")
        for number in re.findall(r"\b\d\d?\.\d\b", line)
    }
    assert shown - {"0.8"} == rates
