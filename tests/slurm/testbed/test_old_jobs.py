"""Jobs that the old code queued run with the code of the checkout, as after an update.

The queued job has its batch script, its submission folder and its environment from the old code.
The environment names the code by a link, which leads to the checkout when the job starts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from golden.old_code import ROOT, CodeFolder, extract_old_code, write_matrix
from testbed.testbed import Testbed
from waiting import wait_until

SUBMIT = ("cluster=testbed", "cluster.memory=1G", "cluster.sbatch={hold: true}")


def read_run(code: CodeFolder, runs: Path, matrix: str) -> dict[str, Any]:
    """What ``status --json`` prints of the only run, asked anew."""
    for answers in (runs / ".submissions").glob("*.json"):
        answers.unlink()  # they stay valid for 10 s
    (run,) = code.read_json(runs, "status", matrix)["runs"]
    match: dict[str, Any] = run
    return match


def replace_link(link: Path, target: Path) -> None:
    """Let a link lead to another folder, at once."""
    new = link.with_suffix(".new")
    new.symlink_to(target)
    new.replace(link)


def test_a_job_queued_by_the_old_code_trains_with_the_new_code(
    cluster: Testbed, tmp_path: Path
) -> None:
    old_code, link, runs = tmp_path / "old", tmp_path / "code", tmp_path / "my runs"
    replace_link(link, extract_old_code(old_code))
    code = CodeFolder(link, tmp_path, cluster.env)
    matrix = write_matrix(tmp_path / "old_jobs.yaml", [0])
    code.call(runs, "sweep", matrix, *SUBMIT)
    (script,) = (runs / ".submissions").glob("*/script.sh")
    assert "-m protoseg.dispatch.task" in script.read_text()
    run = read_run(code, runs, matrix)
    assert run["state"] == "queued"
    try:
        replace_link(link, ROOT)
        old_code.rename(tmp_path / "gone")  # nothing of the job can use it
        now = read_run(code, runs, matrix)
        # The sentence may get longer: it names the command that releases the job.
        assert now.pop("message").startswith(run.pop("message"))
        assert now == run, "the new code reads another state"
        cluster.run("scontrol", "release", run["job"].partition("_")[0])
        patterns = ("*/attempts/*/log.txt", ".submissions/*/logs/*.txt")
        logs = (path for pattern in patterns for path in runs.glob(pattern))
        wait_until(lambda: list(runs.glob("*/record.json")), "the record", logs=logs)
    finally:
        cluster.run("scancel", run["job"].partition("_")[0])
    wait_until(lambda: read_run(code, runs, matrix)["state"] == "done", "done", poll_seconds=1)
    record = json.loads((runs / run["run_id"] / "record.json").read_text())
    assert record["losses"][-1][0] == run["iterations"] == 12
    assert record["attempts"] == 1
    assert re.fullmatch("[0-9a-f]{40}", record["provenance"]["commit"]), "not the checkout's code"
    code.call(runs, "verify", matrix)
    (attempt,) = code.read_json(runs, "logs", run["run_id"], "--list")
    assert (attempt["reason"], attempt["job"]) == (None, run["job"])
