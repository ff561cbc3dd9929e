"""Builds the table of the trials of a search: row, number, values, metric and run."""

from __future__ import annotations

from protoseg.config.matrix import Matrix
from protoseg.report import metrics, wording
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS
from protoseg.report.tables.model import Cell, Column, Footnote, Provenance, Row, Table
from protoseg.report.tuning.choose import TIE_RULE
from protoseg.report.tuning.notes import describe_inequality
from protoseg.runs.store import RecordStore


def build_trial_table(matrix: Matrix, store: RecordStore) -> Table:
    """Build the table of all trials; the chosen ones are marked.

    Args:
        matrix: a matrix with a search.
        store: records of the trials.

    Raises:
        ProtosegError: two places hold different results of a trial.
    """
    tuning = matrix.tuning
    assert tuning is not None
    metric = METRICS[tuning.selection.metric]
    store = with_levels(matrix, store, [metric.key])
    keys = list(dict.fromkeys(key for row in tuning.rows for key in row.spaces))
    names = {key: wording.name_axis(key, matrix.table.names) for key in keys}
    halving = tuning.block.halving
    header = [
        Column("row", "Row", "label"),
        Column("trial", "Trial", "label"),
        *(Column(key, names[key], "label") for key in keys),
        *([Column("iterations", "Iterations", "label")] if halving.rungs else []),
        Column(metric.key, metric.title, "measured", metric.key),
        Column("run", "Run", "label"),
    ]
    chosen = {row["row"]: row["chosen"] for row in (tuning.choice or {}).get("rows", ())}
    rows: list[Row] = []
    for row in tuning.rows:
        reached = tuning.count_rungs(row)
        for trial in row.trials:
            run = trial.runs[reached[trial.number]]
            run_id = run.run_id
            result = store.find(run_id)
            value = None if result.record is None else metrics.read_metric(result.record, metric)
            if value is None:
                cell = Cell("status", wording.describe_state(result), run_ids=(run_id,))
            else:
                text, is_chosen = f"{value:.{metric.decimals}f}", chosen.get(row.name)
                cell = Cell(
                    "measured",
                    text,
                    note="chosen" if is_chosen == trial.number else "",
                    bold=is_chosen == trial.number,
                    value=value,
                    n=1,
                    expected_n=1,
                    run_ids=(run_id,),
                )
            texts = [
                wording.format_value(trial.values[key]) if key in trial.values else wording.NONE
                for key in keys
            ]
            labels = [wording.clean_text(row.name), str(trial.number), *texts]
            if halving.rungs:
                labels.append(str(run.spec.schedule.last_iteration))
            rows.append(
                Row(
                    f"{labels[0]}, trial {trial.number}",
                    (*(Cell("label", text) for text in labels), cell, Cell("label", run_id)),
                    rule=trial.number == 1 and bool(rows),
                )
            )
    state = "" if chosen else " Not chosen yet."
    notes = [
        f"Selected by {metric.title} on {tuning.selection.on}"
        f"{' (oracle)' if tuning.is_oracle else ''}; {TIE_RULE}.{state}",
        *tuning.list_shared_trials(),
    ]
    inequality = describe_inequality(matrix)
    return Table(
        f"{matrix.name}_trials",
        f"Trials of {wording.clean_text(matrix.title)}",
        "",
        tuple(header),
        tuple(rows),
        tuple(map(Footnote, [inequality, *notes] if inequality else notes)),
        Provenance(),
    )
