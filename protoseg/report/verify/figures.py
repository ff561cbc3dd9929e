"""Committed figures against the records: what each was drawn from is asked of the records anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.report.figures.data import FORMS, Figure, digest_in, read
from protoseg.report.figures.types import KINDS, build, file_name
from protoseg.report.verify.check import Check
from protoseg.report.verify.records import some
from protoseg.report.verify.tables import kept_files
from protoseg.runs.store import RecordStore


def check_figures(
    results: Path, matrices: Mapping[str, Matrix], broken: Mapping[str, str], all_of_it: bool
) -> Check:
    """Compare the digest that each figure carries with that of the data drawn from the records.

    Nothing is drawn: an image that was painted over keeps its digest.

    Args:
        matrices: name -> matrix.
        broken: name -> why a matrix could not be read.
        all_of_it: also look at figures that no matrix here explains.
    """
    check = Check("figures", "the data they say they were drawn from, against the records")
    folder = results / "figures"
    paths = [path for path in kept_files(folder) if path.suffix.removeprefix(".") in FORMS]
    for name, matrix in matrices.items():
        own = {file_name(name, kind): kind for kind in KINDS}
        mine = [path for path in paths if path.stem in own]
        paths = [path for path in paths if path not in mine]
        if mine:
            _check(results, matrix, mine, own, check)
    if not all_of_it:
        return check
    for path in paths:
        why = next((words for name, words in broken.items() if path.stem in figure_names(name)), "")
        words = f"its matrix can not be read: {why}" if why else "no matrix of this name draws it."
        check.problem(f"figures/{path.name}", words)
    others = [path.name for path in sorted(folder.glob("*/"))]
    if others:
        check.notes.append(f"not looked at: {some(others)} (figures of changed matrices)")
    return check


def figure_names(matrix: str) -> Iterable[str]:
    """What the files of a matrix's figures may be called, without ending."""
    return [file_name(matrix, kind) for kind in KINDS]


def _check(
    results: Path, matrix: Matrix, paths: list[Path], kinds: Mapping[str, str], check: Check
) -> None:
    made: dict[str, Figure] = {}
    problems: dict[str, str] = {}
    try:
        store = RecordStore([results / "records"], None)
        reading = read(matrix, store, results / "published")
    except ProtosegError as error:
        problems = {path.stem: str(error) for path in paths}
    for path in paths:
        name, shown = path.stem, f"figures/{path.name}"
        if name not in made and name not in problems:
            try:
                made[name] = build(reading, kinds[name])
            except ProtosegError as error:
                problems[name] = str(error)
        if name in problems:
            check.problem(shown, f"can not be drawn: {problems[name]}")
            continue
        check.count += 1
        try:
            found = digest_in(path.read_bytes())
        except OSError as error:
            check.problem(shown, f"can not be read: {error.strerror or error}.")
            continue
        due = made[name].digest
        again = f"draw it again: protoseg figures {matrix.name} --kind {kinds[name]}"
        if found is None:
            check.problem(shown, f"does not say what it was drawn from; {again}")
        elif found != due:
            words = f"was drawn from other data than the records hold; {again}"
            check.problem(shown, words, committed=found, rebuilt=due)
