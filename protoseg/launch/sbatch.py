"""The batch script of a job array, and handing it to sbatch: submitit's SLURM executor, subclassed.

submitit makes the ``#SBATCH`` lines and the command; what differs here is that nothing is pickled,
that the script starts ``protoseg.launch.task`` on a submission folder, and that every path and
value arrives as it is, whatever characters it has.
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
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.job_arrays import Array
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import check_name, check_text
from protoseg.launch.submission import FOLDER, job_name
from protoseg.slurm.end_states import NO_MODULE

TASK = "protoseg.launch.task"
SBATCH_SECONDS = 300.0
"""sbatch waits by itself for a busy controller; after this long it is given up."""
DEFAULTS = ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "WCKEY")
"""SBATCH_... variables that may fill in for what a profile leaves open, as users set them.
Others are not passed on: sbatch lets them win over the script."""
OUTER_JOB = re.compile(r"SLURM_(?!CONF|JWT|CLUSTERS|SACK)")

NO_ROOM = r"MaxSubmit|GrpSubmit|MaxJobs|GrpJobs|submit limit|temporarily un|MaxJobCount"
"""In SLURM's words: limits on the number of jobs, which pass when some end."""
TOO_BIG = r"(?:QOS|Assoc)(?:Max|Min|Grp)(?!Submit|Jobs)\w*"
"""Limits that a job breaks by its own size; SLURM's sentence is the same, this stands beside it."""
UNSURE = (
    r"timed out|Zero Bytes|Unexpected message|Message (?:send|receive) failure|shutdown failure"
)
"""The answer got lost: the controller may have the job all the same."""


class SubmissionRefused(ProtosegError):  # noqa: N818 (an answer, no error of ours)
    """sbatch took no job.

    Attributes:
        limit: there is no room for so many jobs now; fewer, or the same later, may be taken.
        unsure: the controller may have the job; ask for it by its name.
    """

    def __init__(self, message: str, *, limit: bool = False, unsure: bool = False) -> None:
        super().__init__(message)
        self.limit = limit
        self.unsure = unsure


class ArrayExecutor(submitit.SlurmExecutor):
    """submitit's SLURM executor for one array of runs that lie on disk.

    Args:
        folder: of the submission; what the script's task is told.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)

    @classmethod
    def affinity(cls) -> int:
        """Always there: the text of a script can be looked at where no SLURM is."""
        return 2

    def use(self, array: Array, profile: ClusterProfile, name: str) -> None:
        """Take over what an array asks for."""
        asked = array.resources
        self.update_parameters(
            job_name=name,
            time=asked.time,
            nodes=asked.nodes,
            ntasks_per_node=asked.processes_per_node,
            cpus_per_task=asked.cpus,
            gpus_per_node=_gpus(asked.gpus, asked.gpu_type),
            mem=asked.memory or None,
            partition=asked.partition or None,
            account=asked.account or None,
            qos=asked.qos or None,
            constraint=asked.constraint or None,
            setup=_setup(profile),
            stderr_to_stdout=True,
            use_srun=False,
            wckey=None,
            additional_parameters=_flags(array, profile, self.folder),
        )

    def text(self) -> str:
        """The batch script."""
        return self._make_submission_file_text(self._submitit_command_str, uid="")

    @property
    def _submitit_command_str(self) -> str:
        return f"exec {self.python} -m {TASK} {shlex.quote(str(self.folder))}"

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--parsable", str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        """The number in sbatch's output, among whatever else a site prints there."""
        text = string if isinstance(string, str) else string.decode(errors="replace")
        patterns = (r"^\s*(\d+)(?:;[\w.-]+)?\s*$", r"Submitted batch job (\d+)")
        for pattern in patterns:
            if found := re.findall(pattern, text, re.MULTILINE):
                return str(found[-1])  # banners come before the answer
        raise SubmissionRefused(f"sbatch printed no job number, but {text!r}.", unsure=True)

    def run_sbatch(self, script: Path, given: Iterable[str]) -> str:
        """The job number that sbatch answers with.

        Args:
            script: the file with the batch script.
            given: options in the script; variables of the environment do not win over them.

        Raises:
            SubmissionRefused: it gave no number.
            UsageError: there is no sbatch here.
        """
        try:
            answer = subprocess.run(
                self._make_submission_command(script),
                env=_environment(given),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SBATCH_SECONDS,
                cwd=self.folder,
            )
        except FileNotFoundError as error:
            raise UsageError(
                "sbatch: not found on this machine. cluster=... works where SLURM's commands are, "
                "on a login node; without it the sweep runs here."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SubmissionRefused(
                f"sbatch did not answer within {SBATCH_SECONDS:.0f} s.", unsure=True
            ) from error
        if answer.returncode:
            raise refusal(answer.stderr.decode(errors="replace"), answer.returncode)
        return self._get_job_id_from_submission_command(answer.stdout)


def sbatch_text(array: Array, profile: ClusterProfile, submission_folder: Path, name: str) -> str:
    """The batch script for an array.

    Args:
        array: the runs; task n trains run n.
        profile: modules, environment, signals, other options.
        submission_folder: what `protoseg.launch.task` is told; holds ``logs/``.
        name: the job's, of letters, digits and ``_ . -``.

    Raises:
        UsageError: a path that can not stand in a batch script.
    """
    return _executor(array, profile, submission_folder, name).text()


def submit(array: Array, profile: ClusterProfile, submission_folder: Path, name: str) -> str:
    """Write ``script.sh`` into the submission folder and hand it to sbatch: the array's number.

    Raises:
        SubmissionRefused: sbatch took no job, or its answer got lost.
        UsageError: no sbatch here, or a path that can not stand in a batch script.
        ProtosegError: the folder can not be written.
    """
    executor = _executor(array, profile, submission_folder, name)
    text = executor.text()
    script = submission_folder / "script.sh"
    with _not_for_others():
        files.make_folder(submission_folder / "logs")
        files.write_bytes(script, text.encode())
        given = re.findall(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE)
        return executor.run_sbatch(script.absolute(), given)


@contextlib.contextmanager
def _not_for_others() -> Iterator[None]:
    """What is written inside can not be changed by others; sbatch gives the umask to the job."""
    before = os.umask(0o077)
    os.umask(before | 0o002)
    try:
        yield
    finally:
        os.umask(before)


def preview(
    arrays: Iterable[Array], profile: ClusterProfile, runs_folder: Path, matrix: str
) -> str:
    """What a sweep would submit, for people: each script, with NONCE for what is drawn then."""
    arrays = list(arrays)
    folder = runs_folder / FOLDER / "TIME-NONCE"
    parts = []
    for number, array in enumerate(arrays, 1):
        ids = array.run_ids
        span = ids[0] if len(ids) == 1 else f"{ids[0]} ... {ids[-1]}"
        head = f"# ---- array {number} of {len(arrays)}: {len(ids)} runs ({span})\n"
        parts.append(head + sbatch_text(array, profile, folder, job_name(matrix, "NONCE")))
    return "\n".join(parts)


def refusal(words: str, status: int = 1) -> SubmissionRefused:
    """The error for what sbatch printed when it took no job."""
    lines = [re.sub(r"^sbatch: (error: |fatal: )?", "", x.strip()) for x in words.splitlines()]
    said = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line))
    said = said[-500:] or f"exit status {status}, and not a word"
    too_big = re.search(TOO_BIG, words) is not None
    return SubmissionRefused(
        f"sbatch: {said}.",
        limit=not too_big and re.search(NO_ROOM, words, re.IGNORECASE) is not None,
        unsure=re.search(UNSURE, words, re.IGNORECASE) is not None,
    )


def _executor(
    array: Array, profile: ClusterProfile, submission_folder: Path, name: str
) -> ArrayExecutor:
    folder = submission_folder.absolute()
    for what, path in (("run folders", str(folder)), ("python", sys.executable)):
        try:
            check_text(path)
        except UsageError as error:
            raise UsageError(f"{what}: {error} Choose another place.") from error
    if "\\" in str(folder):  # to SLURM it means: leave all % alone
        raise UsageError(
            f"run folders: {folder}: SLURM can not write logs into a folder with a backslash in "
            "its name. Choose another place with --runs."
        )
    check_name("job name", name)
    executor = ArrayExecutor(folder)
    executor.use(array, profile, name)
    return executor


def _gpus(number: int, kind: str) -> str | None:
    if not number:
        return None
    return f"{kind}:{number}" if kind else str(number)


def _flags(array: Array, profile: ClusterProfile, folder: Path) -> dict[str, Any]:
    last = len(array.entries) - 1
    throttle = f"%{profile.throttle}" if profile.throttle else ""
    flags: dict[str, Any] = {
        "array": f"0-{last}{throttle}",
        "chdir": str(folder),
        # SLURM replaces what follows a % in the whole path, not in its last part alone.
        "output": f"{folder}/logs/".replace("%", "%%") + "%A_%a.txt",
        "open-mode": "append",
        "signal": f"USR2@{profile.signal_seconds}",
        "requeue" if profile.requeue else "no-requeue": True,
    }
    if array.resources.reservation:
        flags["reservation"] = array.resources.reservation
    # A backslash escapes in #SBATCH lines, inside quotes too.
    given = {flag: value if value is True else str(value) for flag, value in profile.sbatch.items()}
    return flags | {k: v if v is True else v.replace("\\", "\\\\") for k, v in given.items()}


def _setup(profile: ClusterProfile) -> list[str]:
    lines = ["umask o-w"]
    for module in profile.modules:
        lines.append(f"module load {shlex.quote(module)} || exit {NO_MODULE}")
    for name, value in profile.environment.items():
        lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def _environment(given: Iterable[str]) -> dict[str, str]:
    """The environment for sbatch: what the script says holds, and no outer job shines through."""
    open_defaults = {f"SBATCH_{x}" for x in DEFAULTS} - {f"SBATCH_{x.upper()}" for x in given}
    inside = "SLURM_JOB_ID" in os.environ
    return {
        key: value
        for key, value in os.environ.items()
        if (not key.startswith("SBATCH_") or key in open_defaults)
        and not (inside and OUTER_JOB.match(key))
    }
