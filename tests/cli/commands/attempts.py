"""A run with two attempts, for tests of ``logs`` and ``cancel``."""

from __future__ import annotations

from cli.conftest import CommandLine
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason


def run_with_two_attempts(protoseg: CommandLine, index: int = 0) -> RunFolder:
    """A run of the quickstart whose first attempt was preempted and whose second lost its node."""
    run = protoseg.quickstart()[index]
    protoseg.lab.fail(run.spec, "preempted", "SIGTERM; saved")
    folder = RunFolder(protoseg.lab.runs / run.run_id)
    (folder.attempts_folder / "0001" / "log.txt").write_text("first line\nend of the first\n")
    start = {"time": "2026-01-01T10:00:00+00:00", "node": "gpu7", "job": "12_3", "iteration": 40}
    second = folder.start_attempt(start)
    (second / "log.txt").write_text("second\n")
    folder.record_verdict(2, Reason.NODE_FAILURE, "the node failed on gpu7", "sacct")
    return folder
