"""The simulation of error rates runs, and its data have the stated properties."""

from __future__ import annotations

import json

import error_rates
import numpy as np
import pytest


def test_few_repeats_give_every_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(error_rates, "DRAWS", 50)
    assert error_rates.main(["--repeats", "2", "--seed", "3", "--json"]) == 0
    rates = json.loads(capsys.readouterr().out)
    assert len({(rate["quantity"], rate["case"], rate["n"]) for rate in rates}) == len(rates) == 36
    assert all(0 <= rate["rate"] <= 1 for rate in rates)
    assert {rate["repeats"] for rate in rates} == {2, 20}


def test_the_table_has_one_line_per_rate() -> None:
    rate = error_rates.Rate("coverage", "t interval of a pair", "3 seeds", 0.95, 0.94, 10_000)
    assert error_rates.format_table([rate]).splitlines()[2] == (
        "| coverage | t interval of a pair | 3 seeds | 95% | 94.0% ± 0.2 | 10,000 |"
    )


def test_the_effects_of_frames_have_the_correlation() -> None:
    starts = np.zeros(20_000, dtype=bool)
    starts[10_000] = True
    generator = np.random.default_rng(0)
    effects = error_rates.simulate_effects(generator, 20_000, 0.8, starts)
    assert effects.std(1) == pytest.approx(error_rates.FRAME_STD, rel=0.1)
    for of_run in effects:
        assert np.corrcoef(of_run[:-1], of_run[1:])[0, 1] == pytest.approx(0.8, abs=0.03)
    assert abs(np.corrcoef(effects)[0, 1]) < 0.1


def test_the_difference_of_many_frames_is_the_true_one() -> None:
    generator = np.random.default_rng(0)
    effects = generator.normal(0, error_rates.FRAME_STD, (2, 40_000))
    runs = error_rates.simulate_pair(generator, effects)
    values = [error_rates.miou(run.hit.sum(0), run.union.sum(0)) for run in runs]
    expected = error_rates.compute_true_difference()
    assert values[0] - values[1] == pytest.approx(expected, abs=0.2)


def test_sequences_do_not_end_with_blocks() -> None:
    sequences = error_rates.number_sequences(33)
    assert np.bincount(sequences).tolist() == [6, 14, 6, 7]
