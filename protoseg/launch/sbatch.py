"""The batch script of a job array, and its submission.

The script starts ``protoseg.launch.task`` on a submission folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg.launch.batch_script import (
    BatchExecutor,
    check_log_folder,
    check_paths,
    format_options,
    locate_log,
    make_setup_lines,
)
from protoseg.launch.job_arrays import JobArray
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.submission import SUBMISSIONS_FOLDER, job_name

TASK = "protoseg.launch.task"


def make_batch_script(
    array: JobArray, profile: ClusterProfile, submission_folder: Path, name: str
) -> str:
    """Return the batch script for an array.

    Args:
        array: the runs; task n trains run n.
        profile: modules, environment, signals, other options.
        submission_folder: argument of `protoseg.launch.task`; contains ``logs/``.
        name: name of the job, of letters, digits and ``_ . -``.

    Raises:
        UsageError: a batch script cannot contain one of the paths.
    """
    return _make_executor(array, profile, submission_folder, name).make_script()


def submit_array(
    array: JobArray, profile: ClusterProfile, submission_folder: Path, name: str
) -> str:
    """Write ``script.sh`` into the submission folder, submit it, and return the array's number.

    Args:
        array, profile, submission_folder, name: as in `make_batch_script`.

    Raises:
        SubmissionRefused: sbatch accepted no job, or its answer was lost.
        UsageError: no sbatch, or a path that a batch script cannot contain.
        ProtosegError: the folder cannot be written.
    """
    executor = _make_executor(array, profile, submission_folder, name)
    return executor.submit_script(submission_folder / "script.sh")


def preview_scripts(
    arrays: Iterable[JobArray], profile: ClusterProfile, runs_folder: Path, matrix: str
) -> str:
    """Return the batch scripts of a sweep, with NONCE in place of the random token.

    Args:
        arrays: the arrays that the sweep would submit.
        profile: the cluster profile.
        runs_folder: parent of the run folders.
        matrix: name of the matrix, for the job names.
    """
    arrays = list(arrays)
    folder = runs_folder / SUBMISSIONS_FOLDER / "TIME-NONCE"
    parts = []
    for number, array in enumerate(arrays, 1):
        ids = array.run_ids
        span = f"1 run ({ids[0]})"
        if len(ids) > 1:
            span = f"{len(ids)} runs ({ids[0]} ... {ids[-1]})"
        head = f"# ---- array {number} of {len(arrays)}: {span}\n"
        parts.append(head + make_batch_script(array, profile, folder, job_name(matrix, "NONCE")))
    return "\n".join(parts)


def _make_executor(
    array: JobArray, profile: ClusterProfile, submission_folder: Path, name: str
) -> BatchExecutor:
    folder = submission_folder.absolute()
    check_paths({"run folders": str(folder), "python": sys.executable})
    check_log_folder(folder)
    executor = BatchExecutor(folder, ["-m", TASK, str(folder)])
    resources = array.resources
    executor.set_options(
        name,
        make_setup_lines(profile),
        _sbatch_options(array, profile, folder),
        time=resources.time,
        nodes=resources.nodes,
        ntasks_per_node=resources.processes_per_node,
        cpus_per_task=resources.cpus,
        gpus_per_node=_format_gpus(resources.gpus, resources.gpu_type),
        mem=resources.memory or None,
        partition=resources.partition or None,
        account=resources.account or None,
        qos=resources.qos or None,
        constraint=resources.constraint or None,
    )
    return executor


def _format_gpus(number: int, gpu_type: str) -> str | None:
    if not number:
        return None
    return f"{gpu_type}:{number}" if gpu_type else str(number)


def _sbatch_options(array: JobArray, profile: ClusterProfile, folder: Path) -> dict[str, Any]:
    last = len(array.entries) - 1
    throttle = f"%{profile.throttle}" if profile.throttle else ""
    flags: dict[str, Any] = {
        "array": f"0-{last}{throttle}",
        **locate_log(folder, "%A_%a.txt"),
        "signal": f"USR2@{profile.signal_seconds}",
        "requeue" if profile.requeue else "no-requeue": True,
    }
    if array.resources.reservation:
        flags["reservation"] = array.resources.reservation
    return flags | format_options(profile.sbatch)
