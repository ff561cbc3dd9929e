"""Tests of the cache that processes share."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest
from runs.processes import ANNOUNCE_WAIT, finish, next_line, start
from waiting import DEADLINE, wait_until

from protoseg.slurm import cache as cache_module
from protoseg.slurm import client
from protoseg.slurm.client import SlurmClient
from slurm.commands import DOWN, Commands, squeue_lines

ASK = f"""{ANNOUNCE_WAIT}
import sys
from pathlib import Path
from protoseg.slurm import client
client.REFRESH_SECONDS = {DEADLINE}
answer = client.SlurmClient(Path(sys.argv[1])).query_jobs(["1_0", "1_1"])
print(*sorted(answer.jobs), answer.reachable)
"""


@pytest.fixture(autouse=True)
def _answers_stay_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep answers valid during slow tests."""
    monkeypatch.setattr(client, "REFRESH_SECONDS", DEADLINE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shared folder" / "scheduler.json"


def test_equal_queries_are_sent_once(commands: Commands, file: Path) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("1_1", "PENDING")))
    first = SlurmClient(file).query_jobs(["1_0", "1_1"])
    again = SlurmClient(file).query_jobs(["1_1", "1_0"])
    part = SlurmClient(file).query_jobs(["1_1"])
    assert again == first
    assert list(part.jobs) == ["1_1"]
    assert len(commands.calls("squeue")) == 1


def test_other_jobs_fresh_and_old_queries_are_sent_again(
    commands: Commands, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("1_1", "PENDING")))
    slurm_client = SlurmClient(file)
    slurm_client.query_jobs(["1_0"])
    slurm_client.query_jobs(["1_0", "1_1"])
    assert len(commands.calls("squeue")) == 2
    slurm_client.query_jobs(["1_0"], fresh=True)
    assert len(commands.calls("squeue")) == 3
    later = time.time() + client.REFRESH_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    SlurmClient(file).query_jobs(["1_0"])
    assert len(commands.calls("squeue")) == 4
    monkeypatch.setattr(time, "time", lambda: later - 3600)
    SlurmClient(file).query_jobs(["1_0"])
    assert len(commands.calls("squeue")) == 5, "an answer from the future is invalid"


def test_the_cache_keeps_the_answers_for_two_matrices(commands: Commands, file: Path) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("2_0", "RUNNING")))
    for _ in range(3):
        SlurmClient(file).query_jobs(["1_0"])
        SlurmClient(file).query_jobs(["2_0"])
    assert len(commands.calls("squeue")) == 2


def test_the_cache_file_keeps_only_recent_answers(
    commands: Commands, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.prints("squeue", squeue_lines())
    commands.prints("sacct")
    begin = time.time()
    for n in range(5):
        monkeypatch.setattr(time, "time", lambda n=n: begin + n * (client.REFRESH_SECONDS + 1))
        SlurmClient(file).query_jobs([f"{n}_0"])
    assert len(json.loads(file.read_text())["answers"]) == 1


def test_a_failed_query_is_cached(commands: Commands, file: Path) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    for _ in range(3):
        answer = SlurmClient(file).query_jobs(["1_0"])
        assert not answer.reachable
        assert "Unable to contact" in answer.problem
    assert len(commands.calls("squeue")) == 1


def test_a_client_without_a_file_caches_in_memory(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    slurm_client = SlurmClient()
    slurm_client.query_jobs(["1_0"])
    slurm_client.query_jobs(["1_0"])
    assert len(commands.calls("squeue")) == 1


def test_concurrent_processes_query_once(commands: Commands, file: Path) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("1_1", "PENDING")))
    go = commands.folder / "go"
    wait = f"until [ -e {shlex.quote(str(go))} ]; do /bin/sleep 0.02; done"
    commands.script("squeue", f"{wait}\n/bin/cat {shlex.quote(f'{commands.folder}/squeue.out')}")
    first = start(ASK, file)
    wait_until(lambda: commands.calls("squeue"), "the first question")
    others = [start(ASK, file) for _ in range(3)]
    assert [next_line(process) for process in others] == ["waiting"] * 3
    go.touch()
    assert {finish(process) for process in (first, *others)} == {"1_0 1_1 True"}
    assert len(commands.calls("squeue")) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"answers": 7}', '{"answers": [7, {"time": 1}]}',
     '{"answers": [{"time": NOW, "ids": ["1_0"], "jobs": {"1_0": {"strange": 1}}}]}',
     '{"answers": [{"time": NOW, "ids": ["1_0"], "jobs": {"1_0": 7}, "reachable": true}]}',
     '{"answers": [{"time": NOW, "ids": [7, []], "jobs": {}}]}'],
)  # fmt: skip
def test_an_invalid_cache_file_is_ignored(commands: Commands, file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text.replace("NOW", str(time.time())))
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    assert SlurmClient(file).query_jobs(["1_0"]).jobs["1_0"].state == "RUNNING"
    assert len(commands.calls("squeue")) == 1


def test_a_cache_that_cannot_be_written_is_ignored(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    slurm_client = SlurmClient(tmp_path / "file" / "scheduler.json")
    assert slurm_client.query_jobs(["1_0"]).reachable


def test_a_held_lock_is_waited_for_a_limited_time(
    commands: Commands, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LOCK_SECONDS", 0.1)
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    other = cache_module.Cache(file, 10)
    with other._locked():
        assert SlurmClient(file).query_jobs(["1_0"]).reachable
