"""``protoseg logs``."""

from __future__ import annotations

import pytest

from cli.commands.attempts import run_with_two_attempts
from cli.conftest import CommandLine
from protoseg.config.fields import to_plain
from protoseg.launch.submission import write_intent


def test_logs_prints_the_last_attempt_or_the_chosen_one(protoseg: CommandLine) -> None:
    folder = run_with_two_attempts(protoseg)
    assert protoseg("logs", folder.run_id).out == "second\n"
    result = protoseg("logs", folder.run_id, "--attempt", "1")
    assert result.out == "first line\nend of the first\n"
    assert result.err.strip().endswith("attempts/0001/log.txt")
    result = protoseg("logs", folder.run_id, "--attempt", "3")
    assert result.status == 2
    assert "no attempt 3. Attempts: 1, 2" in result.err


def test_logs_lists_attempts_with_the_reasons_of_their_ends(protoseg: CommandLine) -> None:
    folder = run_with_two_attempts(protoseg)
    first, second = protoseg("logs", folder.run_id, "--json").json
    assert (first["reason"], first["message"]) == ("preempted", "SIGTERM; saved")
    assert (second["reason"], second["node"], second["job"]) == ("node_failure", "gpu7", "12_3")
    assert second["iteration"] == 40
    text = protoseg("logs", folder.run_id, "--list").out
    assert "node_failure: the node failed on gpu7" in text
    assert protoseg("status", "quickstart", "--json").json["runs"][0]["job"] == "12_3"


def test_a_unique_part_of_a_run_id_names_the_run(protoseg: CommandLine) -> None:
    first, second = (run_with_two_attempts(protoseg, index) for index in (0, 1))
    assert protoseg("logs", first.run_id[-10:]).out == "second\n"
    result = protoseg("logs", "shapes")
    assert result.status == 2
    assert "a part of 2 run ids" in result.err
    assert second.run_id in result.err
    result = protoseg("logs", first.run_id[:-2] + "zz")
    assert result.status == 2
    assert "unknown run" in result.err
    assert first.run_id in result.err


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "$(id)", "\n"])
def test_a_path_does_not_name_a_run(protoseg: CommandLine, name: str) -> None:
    run_with_two_attempts(protoseg)
    result = protoseg("logs", name)
    assert (result.status, result.out) == (2, "")


def test_logs_prints_the_batch_log_if_no_attempt_has_started(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    submission = write_intent(protoseg.lab.runs, "m", [(run.run_id, to_plain(run.spec))], launch={})
    assert protoseg("logs", run.run_id).status == 1
    submission.note_job("7")
    submission.log("7_0").write_text("module: command not found\n")
    assert protoseg("logs", run.run_id).out == "module: command not found\n"
