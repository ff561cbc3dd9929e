"""The two stages of a matrix with a search: its trials, then its final runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.config.matrix import Matrix, PlannedRun, Tuning
from protoseg.config.tuning.expand import finalise, make_trial_matrix
from protoseg.errors import UsageError
from protoseg.launch.current_plan import read_plan
from protoseg.report.tuning.choose import choose_settings, name_choice
from protoseg.report.tuning.notes import list_choices
from protoseg.report.tuning.rungs import promote_trials
from protoseg.runs.results.choice import CHOICES, read_choice, write_choice
from protoseg.runs.sealed import RecordError
from protoseg.runs.states import State
from protoseg.runs.store import RecordStore

if TYPE_CHECKING:
    from protoseg.cli.context import Context


def is_unchosen(matrix: Matrix) -> bool:
    """Whether a matrix has a search whose settings are not chosen yet."""
    return matrix.tuning is not None and matrix.tuning.choice is None


def select_stage(matrix: Matrix) -> Matrix:
    """The matrix whose runs come next: the trials, or the final runs once they are known."""
    return make_trial_matrix(matrix) if is_unchosen(matrix) else matrix


def list_stages(matrices: Iterable[Matrix]) -> list[Matrix]:
    """Each matrix; those with a search as one of their trials, and one of their final runs."""
    stages = []
    for matrix in matrices:
        if matrix.tuning is not None:
            stages.append(make_trial_matrix(matrix))
        if not is_unchosen(matrix):
            stages.append(matrix)
    return stages


def make_example(matrix: Matrix) -> Matrix:
    """A matrix with as many later runs as there will be, with the values of the first trials.

    The runs of a workload take equally long, so it has the cost of the final runs, and of the
    trials that go on at rungs that are not decided.
    """
    assert matrix.tuning is not None
    runs = [*_list_undecided(matrix.tuning)]
    runs += [
        PlannedRun(dataclasses.replace(row.example, seed=seed), row.axes)
        for row in matrix.tuning.rows
        for seed in matrix.tuning.seeds
    ]
    return dataclasses.replace(matrix, runs=tuple(runs), tuning=None)


def _list_undecided(tuning: Tuning) -> Iterator[PlannedRun]:
    for row in tuning.rows:
        decided = len(tuning.promoted.get(row.name, ()))
        for rung in range(decided + 1, len(tuning.block.halving.rungs) + 1):
            kept = tuning.block.halving.count_kept(len(row.trials), rung)
            for trial in row.trials[:kept]:
                yield dataclasses.replace(trial.runs[rung], axes=row.axes)


def refuse_other_choices(context: Context, matrices: Iterable[Matrix]) -> None:
    """Refuse a sweep that could not write its choice, before a trial is trained.

    Raises:
        UsageError: the runs folder has the choice of another search.
    """
    for matrix in matrices:
        path = _choice_path(context, matrix)
        if not is_unchosen(matrix) or not path.exists():
            continue
        assert matrix.tuning is not None
        other = read_choice(path)["block_digest"]
        raise UsageError(
            f"{path}: is the choice of another search (digest {other[:10]}; {matrix.name} has "
            f"{matrix.tuning.digest[:10]}), because the matrix was changed. Move it away to choose "
            "again."
        )


def choose_finished(
    context: Context, matrices: Sequence[Matrix], allow_missing: bool
) -> tuple[list[Matrix], dict[str, dict[str, str]]]:
    """Choose the settings of the matrices whose trials have ended, and write the choices.

    Args:
        matrices: any matrices.
        allow_missing: choose among the finished trials, if the others failed.

    Returns:
        The matrices, with final runs where settings are chosen, or the trials that go on; and for
        each matrix without a choice: row -> why it cannot be chosen.

    Raises:
        RecordError: a different choice exists.
    """
    chosen: list[Matrix] = []
    waiting: dict[str, dict[str, str]] = {}
    for matrix in matrices:
        if not is_unchosen(matrix):
            chosen.append(matrix)
            continue
        store = RecordStore(context.record_folders, context.paths.runs)
        known, excused = _decide_rungs(context, matrix, store, allow_missing)
        selected = choose_settings(known, store, excused)
        if selected.choice is None:
            waiting[matrix.name] = selected.to_be_chosen
            chosen.append(known)
            continue
        path = _choice_path(context, matrix)
        write_choice(selected.choice, path)
        final = finalise(matrix, selected.choice)
        if not context.json:
            context.console.print(f"Chosen, {path}:", markup=False)
            for line in list_choices(final):
                context.console.print(f"  {line}", markup=False)
            for sentence in list_shared_finals(final):
                context.console.print(sentence, markup=False)
        chosen.append(final)
    return chosen, waiting


def _decide_rungs(
    context: Context, matrix: Matrix, store: RecordStore, allow_missing: bool
) -> tuple[Matrix, set[str]]:
    """The matrix with the trials that go on, and the trials that failed if they may be missing.

    A trial that is queued, running or interrupted is always waited for.
    """
    while True:
        excused: set[str] = set()
        if allow_missing:
            trials = [make_trial_matrix(matrix)]
            plan = read_plan(trials, context.paths.runs, context.record_folders)
            ended = (State.FAILED, State.DONE)
            excused = {e.run.run_id for e in plan.entries if e.status.state in ended}
        known = promote_trials(matrix, store, excused)
        if known == matrix:
            return known, excused
        matrix = known


def list_shared_finals(matrix: Matrix) -> list[str]:
    """One sentence for each row whose final runs are those of an earlier row."""
    first: dict[str, str] = {}
    sentences = {}
    names = {id(row.axes): row.name for row in matrix.tuning.rows} if matrix.tuning else {}
    for run in matrix.runs:
        name = names[id(run.axes)]
        earlier = first.setdefault(run.run_id, name)
        if earlier != name:
            sentences[name] = f"{name} and {earlier} are the same runs; they are trained once."
    return list(sentences.values())


def stages_to_dict(
    matrices: Iterable[Matrix], waiting: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The chosen trial of each row, and why others are not chosen; empty without a search.

    Args:
        matrices: any matrices.
        waiting: matrix -> row -> why its settings are not chosen.
    """
    tuned = [matrix for matrix in matrices if matrix.tuning is not None]
    choices = {matrix.name: matrix.tuning.choice for matrix in tuned if matrix.tuning is not None}
    chosen = {
        name: {row["row"]: row["chosen"] for row in choice["rows"]}
        for name, choice in choices.items()
        if choice is not None
    }
    return {"chosen": chosen, "to_be_chosen": waiting} if tuned else {}


def publish_choice(context: Context, matrix: Matrix) -> list[str]:
    """Copy the choice of a matrix to the committed ones; return the problem if there is one."""
    if matrix.tuning is None or matrix.tuning.choice is None:
        return []
    try:
        write_choice(
            dict(matrix.tuning.choice), context.paths.results / CHOICES / name_choice(matrix)
        )
    except RecordError as error:
        return [str(error)]
    return []


def have_trials_ended(context: Context, matrix: Matrix) -> bool:
    """Whether no trial is left to train, queued or running."""
    plan = read_plan([make_trial_matrix(matrix)], context.paths.runs, context.record_folders)
    active = (State.RUNNING, State.QUEUED)
    return not plan.left() and not any(entry.status.state in active for entry in plan.entries)


def describe_waiting(waiting: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Describe each row whose settings cannot be chosen in one message, and what to do.

    Args:
        waiting: matrix -> row -> why its settings are not chosen.
    """
    for name, rows in waiting.items():
        for row, reason in rows.items():
            yield f"{name}: {row}: to be chosen: {reason}."
        yield (
            f"{name}: its final runs need a choice for every row. Sweep again, with --retry-failed "
            "to train failed trials, or with --allow-missing to choose among the finished ones."
        )


def _choice_path(context: Context, matrix: Matrix) -> Path:
    return context.paths.runs / CHOICES / name_choice(matrix)
