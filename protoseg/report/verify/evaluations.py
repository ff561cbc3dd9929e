"""Checks committed evaluations on other splits: digests, origin, choice, and their numbers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.report.split_table import merge_evaluation
from protoseg.report.verify.check import Check
from protoseg.report.verify.recount import CountsError, find_wrong_numbers
from protoseg.runs.record import read_record
from protoseg.runs.results.choice import CHOICES, read_choice
from protoseg.runs.results.evaluation import EVALUATIONS, check_origin, read_evaluation


def check_evaluations(results: Path, only: Collection[str] | None = None) -> Check:
    """Check the evaluations of a folder of results against records, choices and counts.

    Args:
        results: the folder that contains ``evaluations``, ``records`` and ``choices``.
        only: run ids to check; None checks all.
    """
    check = Check(
        "evaluations", "on other splits: digests, models, choices, and recomputed numbers"
    )
    choices = _list_choices(results / CHOICES)
    expected: set[str] = set()
    for path in sorted((results / EVALUATIONS).glob("*.json")):
        run_id = path.name.partition(".")[0]
        expected |= {path.name, path.with_suffix(".npz").name}
        if only is not None and run_id not in only:
            continue
        check.count += 1
        file = f"{EVALUATIONS}/{path.name}"
        try:
            evaluation = read_evaluation(path)
            record = read_record(results / "records" / f"{run_id}.json")
            check_origin(evaluation, record, path)
        except FileNotFoundError:
            check.problem(file, "its run has no record.")
            continue
        except ProtosegError as error:
            check.problem(file, str(error).partition(": ")[2])
            continue
        is_last = "checkpoint" not in evaluation
        if is_last and evaluation["state_sha256"] != record["provenance"]["state_sha256"]:
            check.problem(file, "is of another model than the record of its run.")
        if evaluation["choice"] and evaluation["choice"] not in choices:
            digest = evaluation["choice"][:10]
            check.problem(file, f"its choice of settings (digest {digest}) is not in {CHOICES}.")
        _check_numbers(record, evaluation, path, check)
    others = sorted(path.name for path in (results / EVALUATIONS).iterdir())
    for name in others if only is None else ():
        if name not in expected and not name.startswith("."):
            check.problem(f"{EVALUATIONS}/{name}", "belongs to no evaluation.")
    return check


def _list_choices(folder: Path) -> set[str]:
    """The digests of the valid choices of a folder."""
    digests = set()
    for path in folder.glob("*.json"):
        try:
            digests.add(read_choice(path)["digest"])
        except ProtosegError:  # `check_choices` reports it
            continue
    return digests


def _check_numbers(
    record: dict[str, Any], evaluation: dict[str, Any], path: Path, check: Check
) -> None:
    file = f"{EVALUATIONS}/{path.name}"
    try:
        wrong, _ = find_wrong_numbers(
            merge_evaluation(record, evaluation), path.with_suffix(".npz")
        )
    except CountsError as error:
        check.problem(file, f"{error}.")
        return
    for name, sentence in wrong:
        check.problem(file, f"{sentence}.", column=name)
