"""Computes the number that a page names by a source.

A source is a word and its operands: ``delta camvid_methods 1 5``. `SOURCES` lists the words. A row
is a label (in quotes if it has a space) or a number from 1, as in ``protoseg compare``; a row of
another matrix begins with its name: ``camvid_methods:5``. COLUMN is a key, a title or a number
(default: the first column). ``delta:1`` gives one decimal.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from protoseg.errors import ProtosegError, UsageError, describe_unknown_name, join_names
from protoseg.report import wording
from protoseg.report.metrics import METRICS
from protoseg.report.prose.result_reader import ResultReader, Setting
from protoseg.report.statistics.significance import MIN_SEEDS, paired_t_p

MOST_DECIMALS = 6


def compute_source(results: ResultReader, source: str) -> str:
    """Compute the text of a source.

    Raises:
        UsageError: an unknown word, matrix, row, column or class, or a wrong number of operands.
        ProtosegError: no finished run, too few seeds, or two different evaluations.
    """
    word, operands, decimals = _split_source(wording.clean_text(source))
    return SOURCES[word].compute(results, operands, decimals)


def _split_source(source: str) -> tuple[str, list[str], int | None]:
    """Split a source into its word, its operands and its decimals."""
    try:
        name, *operands = shlex.split(source)
    except ValueError as error:
        raise UsageError(f"'{source}' has an open quotation mark. Close it.") from error
    word, colon, digits = name.partition(":")
    if word not in SOURCES:
        raise UsageError(describe_unknown_name("source", word, f"'{source}'", SOURCES))
    usage = SOURCES[word].operands
    fewest = len(re.findall(r"\w+", usage.partition("[")[0]))
    most = math.inf if usage.endswith("...") else len(re.findall(r"\w+", usage))
    if not fewest <= len(operands) <= most:
        raise UsageError(f"'{source}' has {len(operands)} operands. Write: {word} {usage}.")
    if not colon:
        return word, operands, None
    if not digits.isdecimal() or int(digits) > MOST_DECIMALS:
        raise UsageError(
            f"'{source}': expected a number of decimals from 0 to {MOST_DECIMALS}, "
            f"not '{digits}'. Write for example {word}:1."
        )
    return word, operands, int(digits)


def _compute_mean(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    setting = results.find_setting(*operands)
    assert setting.cell.value is not None
    return wording.format_number(setting.cell.value, _choose_decimals(setting, decimals))


def _compute_mean_std(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    setting = results.find_setting(*operands)
    if setting.cell.std is None:
        raise ProtosegError(
            f"{setting.name} has one finished run, and so no standard deviation. "
            "Use the source mean."
        )
    spread = wording.format_number(setting.cell.std, _choose_decimals(setting, decimals))
    return f"{_compute_mean(results, operands, decimals)} ± {spread}"


def _compute_run(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    matrix, row, seed, *column = operands
    setting = results.find_setting(matrix, row, *column)
    values = {str(key): value for key, value in results.read_values(setting).items()}
    if seed not in values:
        raise UsageError(describe_unknown_name("seed", seed, setting.name, values))
    return wording.format_number(values[seed], _choose_decimals(setting, decimals))


def _choose_decimals(setting: Setting, decimals: int | None) -> int:
    return METRICS[setting.column.metric].decimals if decimals is None else decimals


def _compute_delta(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    paired, default = results.pair_rows(operands, 1)
    return wording.format_difference(paired.mean, default if decimals is None else decimals)


def _compute_gap(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    paired, default = results.pair_rows(operands, 1)
    return wording.format_number(abs(paired.mean), default if decimals is None else decimals)


def _compute_interval(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    paired, default = results.pair_rows(operands, MIN_SEEDS)
    default = default if decimals is None else decimals
    ends = (wording.format_difference(end, default) for end in paired.interval())
    return f"[{', '.join(ends)}]"


def _compute_p(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    paired, _ = results.pair_rows(operands, MIN_SEEDS)
    return _format_p(paired_t_p([difference for _, difference in paired.differences]), decimals)


def _compute_adjusted_p(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    return _format_p(results.find_comparison(operands).adjusted_p or 0.0, decimals)


def _compute_detectable(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    comparison = results.find_comparison(operands)
    default = METRICS[comparison.metric].decimals
    return wording.format_number(
        comparison.detectable or math.nan, default if decimals is None else decimals
    )


def _format_p(p: float, decimals: int | None) -> str:
    if decimals is None:  # two significant digits, without an exponent
        decimals = max(2, 1 - math.floor(math.log10(p))) if p > 0 else 2
    return wording.format_number(p, decimals)


def _compute_class(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    matrix, row, name, *column = operands
    setting = results.find_setting(matrix, row, *column)
    metric = setting.column.metric
    group = setting.column.key.removesuffix(metric).removesuffix("/")
    means = {
        result.name: result.mean
        for result in setting.table.per_class
        if (result.row, result.group) == (setting.row.label, group)
    }
    if name not in means:
        classes = list(means)
        raise UsageError(describe_unknown_name("class", name, setting.name, classes))
    mean = means[name]
    if mean is None:
        raise ProtosegError(f"{setting.name}: class '{name}' has no IoU. Remove this number.")
    return wording.format_number(mean, METRICS["miou"].decimals if decimals is None else decimals)


def _compute_loss(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    matrix, row, name, *column = operands
    setting = results.find_setting(matrix, row, *column)
    records = [record for run in setting.runs if (record := results.read_record(run.run_id))]
    logged = [record["losses"][-1][1] for record in records]
    for losses in logged:
        if name not in losses:
            raise UsageError(describe_unknown_name("loss", name, setting.name, losses))
    values = [losses[name] for losses in logged]
    ends = (
        wording.format_number(value, 2 if decimals is None else decimals)
        for value in (min(values), max(values))
    )
    return " to ".join(dict.fromkeys(ends))


def _count_runs(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    run_ids = {run.run_id for name in operands for run in results.load_matrix(name).runs}
    count = sum(results.read_record(run_id) is not None for run_id in run_ids)
    if not count:
        raise ProtosegError(
            f"{join_names(operands)}: no run has a record. "
            f"Train it and keep its records: protoseg tables {operands[0]} --keep-records."
        )
    return f"{count:,}"


def _render_rows(results: ResultReader, operands: list[str], decimals: int | None) -> str:
    from protoseg.report.formats.files import to_markdown

    rows = [
        line for line in to_markdown(results.load_table(*operands)).splitlines() if line[:1] == "|"
    ]
    return "\n".join(["", *rows, ""])


@dataclass(frozen=True)
class Source:
    """A word that begins a source."""

    operands: str
    content: str
    compute: Callable[[ResultReader, list[str], int | None], str]


SOURCES: dict[str, Source] = {
    "mean": Source("MATRIX ROW [COLUMN]", "mean over the finished seeds", _compute_mean),
    "mean_std": Source(
        "MATRIX ROW [COLUMN]", "mean ± sample standard deviation", _compute_mean_std
    ),
    "run": Source("MATRIX ROW SEED [COLUMN]", "value of one seed", _compute_run),
    "delta": Source(
        "MATRIX BASELINE ROW [COLUMN]", "row minus baseline over shared seeds", _compute_delta
    ),
    "gap": Source("MATRIX BASELINE ROW [COLUMN]", "the same without its sign", _compute_gap),
    "interval": Source(
        "MATRIX BASELINE ROW [COLUMN]", "95% Student t interval of delta", _compute_interval
    ),
    "p": Source("MATRIX BASELINE ROW [COLUMN]", "two-sided p of the paired t test", _compute_p),
    "adjusted_p": Source(
        "MATRIX BASELINE ROW [COLUMN]", "p corrected over the table (Holm)", _compute_adjusted_p
    ),
    "detectable": Source(
        "MATRIX BASELINE ROW [COLUMN]",
        "smallest true difference that the corrected test finds",
        _compute_detectable,
    ),
    "class": Source("MATRIX ROW CLASS [COLUMN]", "mean IoU of a class", _compute_class),
    "loss": Source("MATRIX ROW LOSS [COLUMN]", "range of the last loss over seeds", _compute_loss),
    "runs": Source("MATRIX...", "number of different runs with a record", _count_runs),
    "table": Source("MATRIX", "lines of the Markdown table", _render_rows),
}
"""Word -> its operands, what it gives, and the function that computes it."""
