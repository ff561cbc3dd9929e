"""Checks published evaluations of imported weights: digests, and their numbers from the counts."""

from __future__ import annotations

from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.report.verify.check import Check
from protoseg.report.verify.recount import CountsError, find_wrong_numbers
from protoseg.runs.results.imported import FORMAT, IMPORTED


def check_imported(results: Path) -> Check:
    """Check the evaluations of imported weights in a folder of results.

    The weights are not part of the results, so only their digest is known.

    Args:
        results: the folder that contains ``imported``.
    """
    check = Check("imported", "evaluations of imported weights: digests, and recomputed numbers")
    expected: set[str] = set()
    for path in sorted((results / IMPORTED).glob("*.json")):
        counts = path.with_name(f"{path.name.removesuffix('.json')}.npz")
        expected |= {path.name, counts.name}
        check.count += 1
        file = f"{IMPORTED}/{path.name}"
        try:
            evaluation = FORMAT.read_evaluation(path)
            spec = {"dataset": evaluation["dataset"], "evaluation": {"split": evaluation["split"]}}
            wrong, _ = find_wrong_numbers({**evaluation, "spec": spec}, counts)
        except ProtosegError as error:
            check.problem(file, str(error).partition(": ")[2])
            continue
        except CountsError as error:
            check.problem(file, f"{error}.")
            continue
        for name, sentence in wrong:
            check.problem(file, f"{sentence}.", column=name)
    for path in sorted((results / IMPORTED).iterdir()):
        if path.name not in expected and not path.name.startswith("."):
            check.problem(f"{IMPORTED}/{path.name}", "belongs to no evaluation.")
    return check
