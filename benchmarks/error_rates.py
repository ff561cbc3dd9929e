"""How often the statistics of the report are wrong on simulated data with a known truth.

    python benchmarks/error_rates.py [--repeats 1000] [--seed 0] [--json]

It simulates many tables and pairs of runs, and applies the functions of
`protoseg.report.statistics` to each:

- the family-wise error: the share of tables without a true difference in which one or more
  comparisons have p < 0.05, before and after Holm's adjustment;
- the coverage: the share of 95% intervals that contain the true difference, for the Student t
  interval over seeds, and for the percentile bootstrap over images, over blocks of 10 consecutive
  frames, and over sequences, with independent and with dependent frames.

The default takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.bootstrap import (
    bootstrap_differences,
    frame_blocks,
    miou,
    percentile_interval,
)
from protoseg.report.statistics.counts import ImageCounts
from protoseg.report.statistics.multiplicity import adjust_holm
from protoseg.report.statistics.significance import paired_t_p, t_interval

Floats = NDArray[np.float64]
SEEDS = (3, 5, 10)
ROWS, LEVELS = 7, 5
SEED_STD, ERROR_STD = 1.0, 0.5
"""Standard deviations of the effect of a seed, shared by all rows, and of the error of a run."""
DIFFERENCE = 0.7
"""True difference of the pairs whose intervals are counted."""
TABLES_PER_REPEAT = 10
"""A table of t tests takes far less time than a bootstrap."""

FRAMES = (101, 233)
"""Frames of the val and the test split of CamVid."""
CLASSES, ACCURACIES = 4, (0.8, 0.77)
CORRELATION, FRAME_STD = 0.8, 0.05
"""Of the effects of consecutive frames on the accuracy of each run."""
BLOCK = 10
SEQUENCES = (6, 14)
"""Lengths of the sequences, in turn; their ends are not those of the blocks."""
DRAWS = 1000


@dataclass(frozen=True)
class Rate:
    """A measured rate and the rate that it should have."""

    quantity: str
    case: str
    n: str
    """Number of units, e.g. "5 seeds"."""
    nominal: float
    rate: float
    repeats: int

    @property
    def standard_error(self) -> float:
        """Standard error of the rate, due to the number of repeats."""
        return math.sqrt(self.rate * (1 - self.rate) / self.repeats)


def simulate_table(generator: np.random.Generator, rows: int, seeds: int) -> Floats:
    """Draw the values of rows without a true difference, (rows, seeds)."""
    of_seeds = generator.normal(0, SEED_STD, seeds)
    return 45 + of_seeds + generator.normal(0, ERROR_STD, (rows, seeds))


def compare_with_baseline(values: Floats) -> list[float]:
    """Return the p values of all rows against the first one."""
    return [paired_t_p(row.tolist()) for row in values[1:] - values[0]]


def compare_levels(values: Floats) -> list[float]:
    """Return the p values of all pairs of rows, from one block model."""
    rows = {f"level {index}": dict(enumerate(row.tolist())) for index, row in enumerate(values)}
    model = fit_block_model(rows)
    return [model.compare(a, b).p for a in range(len(values)) for b in range(a)]


def measure_family_errors(repeats: int, generator: np.random.Generator) -> Iterator[Rate]:
    """Measure the family-wise error of both designs, with and without Holm's adjustment."""
    families: tuple[tuple[str, int, Callable[[Floats], list[float]]], ...] = (
        (f"{ROWS} rows against one baseline, paired t tests", ROWS + 1, compare_with_baseline),
        (f"all pairs of {LEVELS} levels, block model", LEVELS, compare_levels),
    )
    for name, rows, compute_p in families:
        for n in SEEDS:
            errors = {"unadjusted": 0, "Holm": 0}
            for _ in range(repeats):
                p_values = compute_p(simulate_table(generator, rows, n))
                errors["unadjusted"] += min(p_values) < 0.05
                errors["Holm"] += min(adjust_holm(p_values)) < 0.05
            for adjustment, count in errors.items():
                case = f"{name}, {adjustment}"
                yield Rate("family-wise error", case, f"{n} seeds", 0.05, count / repeats, repeats)


def measure_seed_coverage(repeats: int, generator: np.random.Generator) -> Iterator[Rate]:
    """Measure the coverage of the t intervals of a pair and of two levels of a block model."""
    shifts = np.zeros((LEVELS, 1))
    shifts[0] = DIFFERENCE
    for n in SEEDS:
        covered = {"t interval of a pair": 0, f"t interval, block model of {LEVELS} levels": 0}
        for _ in range(repeats):
            values = simulate_table(generator, LEVELS, n) + shifts
            model = fit_block_model({str(i): dict(enumerate(v)) for i, v in enumerate(values)})
            intervals = t_interval((values[0] - values[1]).tolist()), model.compare(0, 1).interval
            for case, (low, high) in zip(covered, intervals, strict=True):
                covered[case] += low <= DIFFERENCE <= high
        for case, count in covered.items():
            yield Rate("coverage", case, f"{n} seeds", 0.95, count / repeats, repeats)


def number_sequences(frames: int) -> NDArray[np.int64]:
    """Return the sequence of each frame, numbered from 0; lengths in turn as in `SEQUENCES`."""
    lengths = np.tile(SEQUENCES, frames)
    return np.repeat(np.arange(len(lengths)), lengths)[:frames]


def simulate_effects(
    generator: np.random.Generator, frames: int, correlation: float, starts: NDArray[np.bool_]
) -> Floats:
    """Draw one effect per run and frame, (2, frames): a first-order autoregressive process.

    Args:
        generator: source of the draws.
        frames: number of frames.
        correlation: of consecutive frames.
        starts: whether a frame is independent of the one before, (frames,).
    """
    noise = generator.normal(0, FRAME_STD, (2, frames))
    effects = noise.copy()
    innovation = math.sqrt(1 - correlation**2)
    for frame in range(1, frames):
        if not starts[frame]:
            effects[:, frame] = correlation * effects[:, frame - 1] + innovation * noise[:, frame]
    return effects


def simulate_pair(generator: np.random.Generator, effects: Floats) -> list[ImageCounts]:
    """Draw the counts of two runs on the same frames.

    The accuracy of a frame is that of the run plus the effect; the wrong pixels of a class are
    predicted as the next class.
    """
    frames = effects.shape[1]
    truth = 1000 * np.exp(generator.normal(0, 0.5, (frames, CLASSES)))
    runs = []
    for accuracy, of_frames in zip(ACCURACIES, effects, strict=True):
        hit = truth * np.clip(accuracy + of_frames, 0, 1)[:, None]
        runs.append(ImageCounts(hit, truth, truth + np.roll(truth - hit, 1, axis=1)))
    return runs


def compute_true_difference() -> float:
    """Compute the difference of mIoU in percent of infinitely many frames."""
    ious = [miou(np.full(CLASSES, a), np.full(CLASSES, 2 - a)) for a in ACCURACIES]
    return float(ious[0] - ious[1])


def measure_image_coverage(repeats: int, generator: np.random.Generator) -> Iterator[Rate]:
    """Measure the coverage of the bootstrap over images, blocks and sequences."""
    true_difference = compute_true_difference()
    for frames in FRAMES:
        sequences = number_sequences(frames)
        starts = np.diff(sequences, prepend=-1) > 0
        frame_data = {
            "independent frames": (0.0, starts),
            f"frames with correlation {CORRELATION:g}": (CORRELATION, np.zeros(frames, dtype=bool)),
            f"correlation {CORRELATION:g} within sequences": (CORRELATION, starts),
        }
        units = {
            "images": None,
            f"blocks of {BLOCK}": frame_blocks(frames, BLOCK),
            "sequences": sequences,
        }
        for data, (correlation, independent) in frame_data.items():
            covered = dict.fromkeys(units, 0)
            for _ in range(repeats):
                effects = simulate_effects(generator, frames, correlation, independent)
                ours, theirs = simulate_pair(generator, effects)
                for unit, groups in units.items():
                    drawn = bootstrap_differences([ours], [theirs], generator, DRAWS, groups)
                    low, high = percentile_interval(drawn, 0.95)
                    covered[unit] += low <= true_difference <= high
            for unit, groups in units.items():
                number = f"{frames} frames" if groups is None else f"{len(np.unique(groups))} units"
                case = f"bootstrap over {unit}, {data}"
                rate = covered[unit] / repeats
                yield Rate("coverage", f"{case} ({frames})", number, 0.95, rate, repeats)


def measure_rates(repeats: int, seed: int) -> list[Rate]:
    """Measure all rates; tables and seeds are repeated `TABLES_PER_REPEAT` times as often."""
    generators = np.random.default_rng(seed).spawn(3)
    tables = repeats * TABLES_PER_REPEAT
    return [
        *measure_family_errors(tables, generators[0]),
        *measure_seed_coverage(tables, generators[1]),
        *measure_image_coverage(repeats, generators[2]),
    ]


def format_table(rates: Sequence[Rate]) -> str:
    """Format the rates as a Markdown table."""
    lines = [
        "| quantity | case | n | nominal | measured | repeats |",
        "|---|---|---|---|---|---|",
    ]
    for rate in rates:
        measured = f"{100 * rate.rate:.1f}% ± {100 * rate.standard_error:.1f}"
        lines.append(
            f"| {rate.quantity} | {rate.case} | {rate.n} | {100 * rate.nominal:g}% | {measured} | "
            f"{rate.repeats:,} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rates and print them; ± is the standard error of the simulation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1000, help="pairs of runs per case (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rates = measure_rates(options.repeats, options.seed)
    print(json.dumps([asdict(r) for r in rates], indent=1) if options.json else format_table(rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
