"""The batch script of a job array and its submission with sbatch, on submitit's SLURM executor.

submitit writes the ``#SBATCH`` lines and the command. Here nothing is pickled: the script starts
``protoseg.launch.task`` on a submission folder. Paths and values may contain any printable
characters.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import submitit

from protoseg import files
from protoseg.errors import UsageError
from protoseg.launch.job_arrays import JobArray
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import check_name, check_text
from protoseg.launch.sbatch_errors import SubmissionRefused, parse_refusal
from protoseg.launch.submission import SUBMISSIONS_FOLDER, job_name
from protoseg.runs.end_reasons import NO_MODULE

TASK = "protoseg.launch.task"
SBATCH_SECONDS = 300.0
"""Time limit of sbatch, which itself waits for a busy controller."""
DEFAULTS = ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "WCKEY")
"""The user's SBATCH_... variables that apply where a profile sets no value. Others are removed:
in sbatch they override the script."""
OUTER_JOB = re.compile(r"SLURM_(?!CONF|JWT|CLUSTERS|SACK)")


class ArrayExecutor(submitit.SlurmExecutor):
    """submitit's SLURM executor for one array of runs in a submission folder.

    Args:
        folder: the submission folder, the argument of `protoseg.launch.task`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)

    @classmethod
    def affinity(cls) -> int:
        """Return submitit's score for "available": scripts can be shown without SLURM."""
        return 2

    def set_resources(self, array: JobArray, profile: ClusterProfile, name: str) -> None:
        """Set the parameters of submitit from an array and a profile."""
        resources = array.resources
        self.update_parameters(
            job_name=name,
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
            setup=_setup_lines(profile),
            stderr_to_stdout=True,
            use_srun=False,
            wckey=None,
            additional_parameters=_sbatch_options(array, profile, self.folder),
        )

    def make_script(self) -> str:
        """Return the batch script."""
        return self._make_submission_file_text(self._submitit_command_str, uid="")

    @property
    def _submitit_command_str(self) -> str:
        return f"exec {self.python} -m {TASK} {shlex.quote(str(self.folder))}"

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--parsable", str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        """Return the job number in sbatch's output; a site may print more text there."""
        text = string if isinstance(string, str) else string.decode(errors="replace")
        patterns = (r"^\s*(\d+)(?:;[\w.-]+)?\s*$", r"Submitted batch job (\d+)")
        for pattern in patterns:
            if numbers := re.findall(pattern, text, re.MULTILINE):
                return str(numbers[-1])  # banners come before the answer
        raise SubmissionRefused(f"sbatch printed no job number, but {text!r}.", unsure=True)

    def run_sbatch(self, script: Path, script_options: Iterable[str]) -> str:
        """Submit a batch script and return its job number.

        Args:
            script: path of the batch script.
            script_options: options in the script, which environment variables must not override.

        Raises:
            SubmissionRefused: sbatch printed no number.
            UsageError: this machine has no sbatch.
        """
        try:
            answer = subprocess.run(
                self._make_submission_command(script),
                env=_sbatch_environment(script_options),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SBATCH_SECONDS,
                cwd=self.folder,
            )
        except FileNotFoundError as error:
            raise UsageError(
                "sbatch: not found on this machine. Run the command on a login node of the "
                "cluster, or without cluster=... to train on this machine."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SubmissionRefused(
                f"sbatch did not answer within {SBATCH_SECONDS:.0f} s.", unsure=True
            ) from error
        if answer.returncode:
            raise parse_refusal(answer.stderr.decode(errors="replace"), answer.returncode)
        return self._get_job_id_from_submission_command(answer.stdout)


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
    text = executor.make_script()
    script = submission_folder / "script.sh"
    with _restrictive_umask():
        files.make_folder(submission_folder / "logs")
        files.write_bytes(script, text.encode())
        script_options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE)
        return executor.run_sbatch(script.absolute(), script_options)


@contextlib.contextmanager
def _restrictive_umask() -> Iterator[None]:
    """Make new files unwritable for others; sbatch passes the umask on to the job."""
    before = os.umask(0o077)
    os.umask(before | 0o002)
    try:
        yield
    finally:
        os.umask(before)


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
) -> ArrayExecutor:
    folder = submission_folder.absolute()
    for what, path in (("run folders", str(folder)), ("python", sys.executable)):
        try:
            check_text(path)
        except UsageError as error:
            raise UsageError(f"{what}: {error} Use another path.") from error
    if "\\" in str(folder):  # SLURM replaces no % in a path with a backslash
        raise UsageError(
            f"run folders: {folder}: SLURM cannot write logs into a folder with a backslash in "
            "its name. Set another folder with --runs."
        )
    check_name("job name", name)
    executor = ArrayExecutor(folder)
    executor.set_resources(array, profile, name)
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
        "chdir": str(folder),
        # SLURM replaces % patterns in the whole path, not only in the file name.
        "output": f"{folder}/logs/".replace("%", "%%") + "%A_%a.txt",
        "open-mode": "append",
        "signal": f"USR2@{profile.signal_seconds}",
        "requeue" if profile.requeue else "no-requeue": True,
    }
    if array.resources.reservation:
        flags["reservation"] = array.resources.reservation
    # In #SBATCH lines a backslash is an escape character, also inside quotes.
    options = {key: value if value is True else str(value) for key, value in profile.sbatch.items()}
    return flags | {k: v if v is True else v.replace("\\", "\\\\") for k, v in options.items()}


def _setup_lines(profile: ClusterProfile) -> list[str]:
    lines = ["umask o-w"]
    for module in profile.modules:
        lines.append(f"module load {shlex.quote(module)} || exit {NO_MODULE}")
    for name, value in profile.environment.items():
        lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def _sbatch_environment(script_options: Iterable[str]) -> dict[str, str]:
    """Return the environment of sbatch, without script overrides and an outer job's variables."""
    set_options = {f"SBATCH_{option.upper()}" for option in script_options}
    open_defaults = {f"SBATCH_{name}" for name in DEFAULTS} - set_options
    is_inside_job = "SLURM_JOB_ID" in os.environ
    return {
        key: value
        for key, value in os.environ.items()
        if (not key.startswith("SBATCH_") or key in open_defaults)
        and not (is_inside_job and OUTER_JOB.match(key))
    }
