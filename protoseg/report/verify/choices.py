"""Recomputes committed choices of settings from the records of their trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.report.tuning.choose import choose_settings, list_excused_runs, name_choice
from protoseg.report.verify.check import Check
from protoseg.report.verify.record_sources import Sources
from protoseg.runs.results.choice import CHOICES, read_choice


def check_choices(
    sources: Sources, matrices: Mapping[str, Matrix], broken: Mapping[str, str], all_of_it: bool
) -> Check:
    """Compare each committed choice with the one that follows from the records.

    Args:
        sources: the records, and the folder that contains ``choices``.
        matrices: name -> matrix.
        broken: name -> why a matrix cannot be read.
        all_of_it: also check choices without a matrix.
    """
    check = Check("choices", "settings chosen again from the records of all trials")
    folder = sources.results / CHOICES
    committed = {path.name: path for path in sorted(folder.glob("*.json"))}
    for matrix in matrices.values():
        path = committed.pop(name_choice(matrix), None)
        if path is not None:
            _check_choice(sources, matrix, path, check)
    for path in committed.values() if all_of_it else ():
        try:
            choice = read_choice(path)
        except ProtosegError as error:
            check.problem(_relative(path), str(error).partition(": ")[2])
            continue
        name = str(choice["matrix"])
        if choice["overrides"]:
            check.notes.append(f"not checked: {path.name} (made with overrides)")
        elif name in broken:
            check.problem(_relative(path), f"cannot be recomputed: {broken[name]}")
        else:
            check.problem(_relative(path), "there is no matrix of this name.")
    return check


def _check_choice(sources: Sources, matrix: Matrix, path: Path, check: Check) -> None:
    check.count += 1
    try:
        choice = read_choice(path)
    except ProtosegError as error:
        check.problem(_relative(path), str(error).partition(": ")[2])
        return
    if matrix.tuning is None:
        check.problem(_relative(path), f"{matrix.name} has no block tune.")
        return
    if choice["block_digest"] != matrix.tuning.digest:
        check.problem(
            _relative(path),
            f"is the choice of another search (digest {choice['block_digest'][:10]}; "
            f"{matrix.name} has {matrix.tuning.digest[:10]}).",
        )
        return
    excused = list_excused_runs(choice)
    try:
        selected = choose_settings(matrix, sources.committed, excused)
        if selected.choice is None:
            selected = choose_settings(matrix, sources.everywhere, excused)
            if selected.choice is not None:
                check.notes.append(
                    f"{matrix.name}: compared with trials whose records are not committed. To "
                    f"commit them: protoseg tables {matrix.name} --keep-records"
                )
    except ProtosegError as error:
        check.problem(_relative(path), f"cannot be recomputed: {error}")
        return
    if selected.choice is None:
        for row, reason in selected.to_be_chosen.items():
            check.problem(_relative(path), f"cannot be recomputed: {reason}.", row=row)
    elif selected.choice["digest"] != choice["digest"]:
        for row, message in _list_differences(choice, selected.choice):
            check.problem(_relative(path), message, row=row)


def _list_differences(
    committed: Mapping[str, Any], rebuilt: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Row, or an empty text, and a sentence, for each difference of two choices."""
    for key in committed:
        if key not in ("rows", "digest") and committed[key] != rebuilt[key]:
            yield "", f"'{key}' is {committed[key]!r}; the records give {rebuilt[key]!r}."
    for old, new in zip(committed["rows"], rebuilt["rows"], strict=True):
        if old["chosen"] != new["chosen"]:
            yield (
                old["row"],
                f"trial {old['chosen']} is chosen; the records give trial {new['chosen']}.",
            )
        if old.get("rungs") != new.get("rungs"):
            yield old["row"], "other trials go on, or with other values, than the records give."
        for before, after in zip(old["trials"], new["trials"], strict=True):
            if before != after:
                yield (
                    old["row"],
                    f"trial {before['number']} has {before['value']}; the records give "
                    f"{after['value']}.",
                )


def _relative(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
