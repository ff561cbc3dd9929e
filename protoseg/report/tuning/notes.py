"""Footnotes about a search: its trials, ranges and choice, and whether rows were tuned alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from protoseg.config.holdout.settings import describe_holdout
from protoseg.config.matrix import Matrix, Tuning
from protoseg.report import wording
from protoseg.report.metrics import METRICS


def describe_inequality(matrix: Matrix) -> str:
    """Describe how rows were tuned unequally; empty if all were tuned alike."""
    tuning = matrix.tuning
    if tuning is None:
        return ""
    budgets = {row.name: row.budgets for row in tuning.rows}
    trials = {name: number for name, (number, _) in budgets.items()}
    parts = []
    if len(set(trials.values())) > 1:
        parts.append(_describe_extremes("different trials", trials))
    images = {name: number for name, (_, number) in budgets.items()}
    if len(set(images.values())) > 1:
        parts.append(_describe_extremes("training images a trial", images))
    for row in (tuning.choice or {}).get("rows", ()):
        missing = [str(trial["number"]) for trial in row["trials"] if trial["value"] is None]
        if missing:
            parts.append(
                f"{row['row']} was chosen among {len(row['trials']) - len(missing)} of "
                f"{len(row['trials'])} trials (no result: {', '.join(missing)})"
            )
    return f"The rows were not tuned alike: {'; '.join(parts)}." if parts else ""


def _describe_extremes(what: str, numbers: Mapping[str, int]) -> str:
    least, most = (choose(numbers, key=lambda name: numbers[name]) for choose in (min, max))
    return f"{numbers[least]} to {numbers[most]} {what} ({least}; {most})"


def describe_search(matrix: Matrix) -> Iterator[str]:
    """Describe trials, ranges, selection and chosen values of a matrix, for footnotes."""
    tuning = matrix.tuning
    if tuning is None or tuning.choice is None:
        return
    selection = tuning.selection
    title = METRICS[selection.metric].title
    numbers = sorted({len(row.trials) for row in tuning.rows})
    trials = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    oracle = (
        " This is an oracle: settings are selected on images that such a table reports."
        if tuning.is_oracle
        else ""
    )
    iterations = {row.trials[0].run.spec.schedule.iterations: None for row in tuning.rows}
    halving = describe_halving(tuning)
    yield (
        f"Tuned: {trials} trial{'s' * (numbers[-1] > 1)} per row, each of "
        f"{'up to ' if halving else ''}{' or '.join(f'{number:,}' for number in iterations)} "
        f"iterations, selected by {title} on {describe_split(tuning)}.{oracle}"
    )
    if halving:
        yield halving
    spaces = {
        f"{key}: {space.describe()}": None
        for row in tuning.rows
        for key, space in row.spaces.items()
    }
    yield f"Searched: {'; '.join(spaces)}."
    rows = "; ".join(f"{row['row']}: {_describe_chosen(row)}" for row in tuning.choice["rows"])
    yield f"Chosen: {rows}."
    edges = [f"{key} of {row['row']}" for row in tuning.choice["rows"] for key in row["at_edge"]]
    if edges:
        yield f"At an edge of its range, so a wider one may be better: {'; '.join(edges)}."


def describe_halving(tuning: Tuning) -> str:
    """``Successive halving: of 12 trials 6 go on after iteration 250.``; empty without one."""
    halving, row = tuning.block.halving, tuning.rows[0]
    if not halving.rungs:
        return ""
    budget = halving.list_budget(len(row.trials), row.trials[0].run.spec.schedule.iterations)
    steps = [
        f"{kept} after iteration {end:,}"
        for (kept, _), end in zip(budget[1:], halving.rungs, strict=True)
    ]
    return f"Successive halving: of {budget[0][0]} trials of a row go on {', '.join(steps)}."


def list_choices(matrix: Matrix) -> list[str]:
    """One line for each row: its chosen values, their trial and its metric."""
    tuning = matrix.tuning
    if tuning is None or tuning.choice is None:
        return []
    metric = METRICS[tuning.selection.metric]
    lines = []
    for row in tuning.choice["rows"]:
        trial = _find_chosen(row)
        lines.append(
            f"{row['row']}: {_describe_values(trial['values'])} (trial {trial['number']} of "
            f"{len(row['trials'])}, {metric.title} {trial['value']:.{metric.decimals}f})"
        )
    return lines


def describe_row_choice(matrix: Matrix, axes: Mapping[str, Any]) -> Iterator[str]:
    """Describe the choice of one row: values, trial, metric, and the runs of all its trials.

    Args:
        matrix: the matrix.
        axes: of a run of the row.
    """
    tuning = matrix.tuning
    if tuning is None or tuning.choice is None:
        return
    metric = METRICS[tuning.selection.metric]
    for row in tuning.choice["rows"]:
        if row["axes"] != dict(axes):
            continue
        trial = _find_chosen(row)
        oracle = " (oracle)" if tuning.is_oracle else ""
        yield (
            f"Chosen: {_describe_chosen(row)}; {metric.title} {trial['value']:.4f} on "
            f"{describe_split(tuning)}{oracle}, run {trial['run_id']}. Rule: "
            f"{tuning.choice['rule']}; {tuning.choice['tie_rule']}."
        )
        ranked = sorted(
            (
                t
                for t in row["trials"]
                if t["value"] is not None and t is not trial and "stopped_after" not in t
            ),
            key=lambda t: -t["value"] if metric.higher_is_better else t["value"],
        )
        if ranked:
            second = ranked[0]
            yield (
                f"Next best: trial {second['number']}, {second['value']:.4f} "
                f"({_describe_values(second['values'])})."
            )
        if row["at_edge"]:
            yield f"At an edge of its range: {', '.join(row['at_edge'])}."
        digest = tuning.choice["digest"]
        yield f"Choice {digest[:10]}; all trials: protoseg tables {matrix.name} --trials."


def describe_split(tuning: Tuning) -> str:
    """Describe the images on which settings are selected: the holdout, or the name of a split."""
    spec = tuning.rows[0].trials[0].run.spec
    if spec.evaluation.holdout.is_set:
        return describe_holdout(spec.evaluation.holdout, spec.dataset.train_split)
    return tuning.selection.on


def _find_chosen(row: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = next(t for t in row["trials"] if t["number"] == row["chosen"])
    return chosen


def _describe_chosen(row: Mapping[str, Any]) -> str:
    trial = _find_chosen(row)
    return f"{_describe_values(trial['values'])} (trial {trial['number']})"


def _describe_values(values: Mapping[str, Any]) -> str:
    texts = [f"{key}={wording.format_value(value)}" for key, value in values.items()]
    return ", ".join(texts) or "nothing to choose"
