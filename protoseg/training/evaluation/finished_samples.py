"""Computes the samples of a finished run from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from protoseg import files
from protoseg.datasets.digest import verify_digest
from protoseg.datasets.layout import find_root
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import verify_confusion
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.finished_run import load_model, read_finished_run
from protoseg.training.evaluation.samples import collect_samples
from protoseg.training.machine.determinism import use_level


def sample_finished_run(
    folder: RunFolder, data: Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Compute the samples of a finished run and write them to its folder.

    Args:
        folder: of the run.
        data: the data folder.
        progress: called with (finished images, all images).

    Raises:
        UsageError: a run of the task ``weak``.
        ProtosegError: the run has not finished, its checkpoint is missing or differs, or its
            predictions differ from its record.
        DataError: the data differ from their digest.
    """
    spec, record = read_finished_run(folder)
    verify_confusion(record, folder.confusion)
    root = find_root(spec.dataset, data)
    verify_digest(root, spec.dataset)
    counts = confusion.unpack_counts(folder.confusion.read_bytes())
    state = record["provenance"]["state_sha256"]
    with use_level(spec.determinism):
        parts = load_model(folder, record, spec, root)
        samples = collect_samples(parts, spec, counts, data, folder.run_id, state, progress)
    files.write_bytes(folder.samples, samples.pack())
    return folder.samples
