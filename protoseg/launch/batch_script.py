"""A batch script and its submission with sbatch, on submitit's SLURM executor.

submitit writes the ``#SBATCH`` lines and the command. Nothing is pickled: a script starts a module
of protoseg. Paths and values may contain any printable characters.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from protoseg import files
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import check_name, check_text
from protoseg.launch.sbatch_errors import SubmissionRefused, parse_refusal
from protoseg.runs.end_reasons import NO_MODULE

SBATCH_SECONDS = 300.0
"""Time limit of sbatch, which itself waits for a busy controller."""
DEFAULTS = ("ACCOUNT", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "WCKEY")
"""The user's SBATCH_... variables that apply where a profile sets no value. Others are removed:
in sbatch they override the script."""
OUTER_JOB = re.compile(r"SLURM_(?!CONF|JWT|CLUSTERS|SACK)")


class BatchExecutor(submitit.SlurmExecutor):
    """submitit's SLURM executor for one batch script.

    Args:
        folder: sbatch is called in it; has ``logs/`` for the output.
        arguments: of the Python interpreter that the script starts.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        super().__init__(folder=folder)
        self._arguments = shlex.join(arguments)

    @classmethod
    def affinity(cls) -> int:
        """Return submitit's score for "available": scripts can be shown without SLURM."""
        return 2

    def set_options(
        self, name: str, setup: list[str], options: Mapping[str, Any], **parameters: Any
    ) -> None:
        """Set what the script contains.

        Args:
            name: name of the job, of letters, digits and ``_ . -``.
            setup: lines of the script before its command.
            options: other options of sbatch by their long names; ``True`` for no value.
            parameters: more parameters of submitit.
        """
        self.update_parameters(
            job_name=check_name("job name", name),
            setup=setup,
            stderr_to_stdout=True,
            use_srun=False,
            wckey=None,
            additional_parameters=dict(options),
            **parameters,
        )

    def make_script(self) -> str:
        """Return the batch script."""
        return self._make_submission_file_text(self._submitit_command_str, uid="")

    @property
    def _submitit_command_str(self) -> str:
        return f"exec {self.python} {self._arguments}"

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

    def submit_script(self, script: Path) -> str:
        """Write the batch script, submit it, and return its job number.

        Args:
            script: path of the batch script.

        Raises:
            SubmissionRefused: sbatch accepted no job, or its answer was lost.
            UsageError: this machine has no sbatch.
            ProtosegError: the folder cannot be written.
        """
        text = self.make_script()
        with _restrictive_umask():
            files.make_folder(self.folder / "logs")
            files.write_bytes(script, text.encode())
            script_options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE)
            return self._run_sbatch(script.absolute(), script_options)

    def _run_sbatch(self, script: Path, script_options: Iterable[str]) -> str:
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


def check_paths(paths: Mapping[str, str]) -> None:
    """Check that a batch script can contain some paths.

    Args:
        paths: what a path is -> the path.

    Raises:
        UsageError: a path is not one line of printable text.
    """
    for what, path in paths.items():
        try:
            check_text(path)
        except UsageError as error:
            raise UsageError(f"{what}: {error} Use another path.") from error


def check_log_folder(folder: Path) -> None:
    """Check that SLURM can write logs below a folder.

    Raises:
        UsageError: its path contains a backslash.
    """
    if "\\" in str(folder):  # SLURM replaces no % in a path with a backslash
        raise UsageError(
            f"run folders: {folder}: SLURM cannot write logs into a folder with a backslash in "
            "its name. Set another folder with --runs."
        )


def locate_log(folder: Path, pattern: str) -> dict[str, Any]:
    """Return the options of a job that works in a folder and writes its log below ``logs/``.

    Args:
        folder: absolute path of the folder.
        pattern: name of the file, with SLURM's patterns (``%j``).
    """
    # SLURM replaces % patterns in the whole path, not only in the file name.
    output = f"{folder}/logs/".replace("%", "%%") + pattern
    return {"chdir": str(folder), "output": output, "open-mode": "append"}


def format_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of sbatch from a profile in the form of ``#SBATCH`` lines."""
    # In #SBATCH lines a backslash is an escape character, also inside quotes.
    return {k: v if v is True else str(v).replace("\\", "\\\\") for k, v in options.items()}


def make_setup_lines(profile: ClusterProfile) -> list[str]:
    """Return the lines of a batch script that load the modules and set the environment."""
    lines = ["umask o-w"]
    for module in profile.modules:
        lines.append(f"module load {shlex.quote(module)} || exit {NO_MODULE}")
    for name, value in profile.environment.items():
        lines.append(f"export {name}={shlex.quote(value)}")
    return lines


@contextlib.contextmanager
def _restrictive_umask() -> Iterator[None]:
    """Make new files unwritable for others; sbatch passes the umask on to the job."""
    before = os.umask(0o077)
    os.umask(before | 0o002)
    try:
        yield
    finally:
        os.umask(before)


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
