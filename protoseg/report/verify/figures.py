"""Compares the data digest in each committed figure with the data that the records give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.config.tuning.expand import make_trial_matrix
from protoseg.errors import ProtosegError
from protoseg.report.figures.builder import ALL_TYPES, FigureBuilder
from protoseg.report.figures.contents import FORMS, Figure, figure_file_name, read_digest
from protoseg.report.figures.samples.plots import SampleOptions, read_options
from protoseg.report.figures.trial_types import TRIAL_TYPES
from protoseg.report.verify.check import Check
from protoseg.report.verify.record_sources import Comparison, Sources
from protoseg.report.verify.records import join_first
from protoseg.report.verify.tables import list_kept_files
from protoseg.runs.store import RecordStore


def check_figures(
    sources: Sources, matrices: Mapping[str, Matrix], broken: Mapping[str, str], all_of_it: bool
) -> Check:
    """Compare the digest in each figure file with the digest of the data from the records.

    No figure is drawn. An image that was edited but kept its digest is not detected.

    Args:
        sources: the records, and the folder that contains ``figures``.
        matrices: name -> matrix.
        broken: name -> why a matrix cannot be read.
        all_of_it: also check figures without a matrix.
    """
    check = Check("figures", "digest of the data they were drawn from, against the records")
    folder = sources.results / "figures"
    paths = [path for path in list_kept_files(folder) if path.suffix.removeprefix(".") in FORMS]
    for name, matrix in matrices.items():
        types = {figure_file_name(name, figure_type): figure_type for figure_type in ALL_TYPES}
        of_matrix = [path for path in paths if path.stem in types]
        paths = [path for path in paths if path not in of_matrix]
        if of_matrix:
            _check_matrix(sources, matrix, of_matrix, types, check)
    if not all_of_it:
        return check
    for path in paths:
        reasons = (why for name, why in broken.items() if path.stem in list_figure_names(name))
        reason = next(reasons, "")
        message = "there is no matrix of this name."
        if reason:
            message = f"its matrix cannot be read: {reason}"
        check.problem(f"figures/{path.name}", message)
    others = [path.name for path in sorted(folder.glob("*/"))]
    if others:
        check.notes.append(f"not checked: {join_first(others)} (figures made with overrides)")
    return check


def list_figure_names(matrix: str) -> Iterable[str]:
    """List the possible file names of the figures of a matrix, without suffix."""
    return [figure_file_name(matrix, figure_type) for figure_type in ALL_TYPES]


def _check_matrix(
    sources: Sources, matrix: Matrix, paths: list[Path], types: Mapping[str, str], check: Check
) -> None:
    """Check the figures of one matrix; ``types`` maps a file name to its figure type."""

    def compare_with(of_type: list[Path]) -> Comparison:
        def compare_files(store: RecordStore, part: Check) -> None:
            _compare_digests(matrix, store, sources.published, of_type, types, part)

        return compare_files

    of_trials = [path for path in paths if types[path.stem] in TRIAL_TYPES]
    of_runs = [path for path in paths if path not in of_trials]
    if of_runs:
        sources.compare(matrix, compare_with(of_runs), check)
    if of_trials:
        runs = matrix if matrix.tuning is None else make_trial_matrix(matrix)
        sources.compare(runs, compare_with(of_trials), check)


def _compare_digests(
    matrix: Matrix,
    store: RecordStore,
    published: Sequence[Path],
    paths: list[Path],
    types: Mapping[str, str],
    check: Check,
) -> None:
    figures: dict[tuple[str, SampleOptions], Figure] = {}
    problems: dict[tuple[str, SampleOptions], str] = {}
    builder = FigureBuilder(matrix, store, published)
    for path in paths:
        name, file = path.stem, f"figures/{path.name}"
        try:
            content = path.read_bytes()
        except OSError as error:
            check.problem(file, f"cannot be read: {error.strerror or error}.")
            continue
        digest, options = read_digest(content), read_options(content)
        key = (name, options)
        if key not in figures and key not in problems:
            try:
                figures[key] = builder.build(types[name], options)
            except ProtosegError as error:
                problems[key] = str(error)
        if key in problems:
            check.problem(file, f"cannot be drawn: {problems[key]}")
            continue
        check.count += 1
        expected = figures[key].digest
        redraw = f"Draw it again: protoseg figures {matrix.name} --kind {types[name]}"
        redraw += options.list_arguments()
        if digest is None:
            check.problem(file, f"contains no digest of its data. {redraw}")
        elif digest != expected:
            message = f"was drawn from other data than the records hold. {redraw}"
            check.problem(file, message, committed=digest, rebuilt=expected)
