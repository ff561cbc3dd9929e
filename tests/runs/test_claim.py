"""The claim on a run: one live worker holds it, and a dead holder's claim is taken over."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE, wait_until

from protoseg import files
from protoseg.runs import claim
from runs.processes import ANNOUNCE_WAIT, finish, kill, next_line, race, start

HOLD = """
import pathlib, sys, time
from protoseg.runs import claim
held = claim.acquire(pathlib.Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
time.sleep(600)
"""

TRY_TOGETHER = """
from pathlib import Path
held = claim.acquire(Path(sys.argv[1]))
print("held" if held else "refused")
barrier.wait()  # every process has tried
if held:
    print(held.is_mine())
"""

TRY_AND_KEEP = f"""{ANNOUNCE_WAIT}
import pathlib, sys
from protoseg.runs import claim
held = claim.acquire(pathlib.Path(sys.argv[1]))
print("held" if held else "refused", flush=True)
sys.stdin.readline()
if held:
    print(held.is_mine())
"""


@pytest.fixture
def lock_wait(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set as soon as a thread waits for a held lock."""
    event = threading.Event()
    flock = fcntl.flock

    def announcing(*arguments: Any) -> None:
        try:
            flock(*arguments)
        except BlockingIOError:
            event.set()
            raise

    monkeypatch.setattr(files.fcntl, "flock", announcing)
    return event


@pytest.fixture
def claim_path(tmp_path: Path) -> Path:
    return tmp_path / "claim.json"


def write_claim(claim_path: Path, age: float = 0.0, **changes: object) -> None:
    """Write the claim of another worker.

    Args:
        age: of its heartbeat, seconds.
        changes: fields that differ from those of this process.
    """
    holder = claim.Holder(
        host=claim.host_identity(),
        pid=os.getpid(),
        process_started=claim.process_start(os.getpid()) or "",
        nonce="left",
        job="",
    )
    files.write_json(claim_path, dataclasses.asdict(holder) | changes)
    heartbeat = time.time() - age
    os.utime(claim_path, (heartbeat, heartbeat))


def test_a_claim_is_held_until_it_is_released(claim_path: Path) -> None:
    first = claim.acquire(claim_path, job="17")
    assert first is not None
    assert first.is_mine()
    holder = claim.live_holder(claim_path)
    assert holder is not None
    assert (holder.pid, holder.job) == (os.getpid(), "17")
    assert claim.acquire(claim_path) is None
    first.release()
    assert not claim_path.exists()
    second = claim.acquire(claim_path)
    assert second is not None
    second.release()


def test_one_of_eight_processes_gets_the_claim(claim_path: Path) -> None:
    printed = race(TRY_TOGETHER, claim_path)
    assert sorted(printed) == ["held\nTrue", *["refused"] * 7]


@pytest.mark.parametrize("round_", range(3))
def test_one_of_eight_processes_takes_over_a_stale_claim(claim_path: Path, round_: int) -> None:
    holder = start(HOLD, claim_path)
    assert next_line(holder) == "held"
    kill(holder)
    printed = race(TRY_TOGETHER, claim_path)
    assert sorted(printed) == ["held\nTrue", *["refused"] * 7]
    assert not [p for p in claim_path.parent.iterdir() if p.suffix in (".stale", ".tmp")]


def test_a_claim_is_stale_as_soon_as_its_holder_is_killed(claim_path: Path) -> None:
    holder = start(HOLD, claim_path)
    assert next_line(holder) == "held"
    assert claim.live_holder(claim_path) is not None
    kill(holder)
    assert claim_path.exists(), "the killed holder removed nothing"
    assert claim.live_holder(claim_path) is None
    held = claim.acquire(claim_path)
    assert held is not None
    held.release()


def test_a_zombie_holds_no_claim(claim_path: Path) -> None:
    holder = start(HOLD, claim_path)
    next_line(holder)
    holder.kill()
    wait_until(lambda: claim.live_holder(claim_path) is None, "the end of the killed holder")
    assert Path(f"/proc/{holder.pid}/stat").exists(), "not reaped: still in the process table"
    holder.communicate()


def test_a_live_holder_on_this_host_keeps_its_claim_despite_an_old_heartbeat(
    claim_path: Path,
) -> None:
    holder = start(HOLD, claim_path)
    assert next_line(holder) == "held"
    long_ago = time.time() - 100 * claim.STALE_SECONDS
    os.utime(claim_path, (long_ago, long_ago))
    assert claim.acquire(claim_path) is None
    assert claim.live_holder(claim_path) is not None
    kill(holder)


def test_the_start_of_a_process_is_in_ticks_since_boot(claim_path: Path) -> None:
    """Compared with the clock of ``/proc/uptime`` before and after the start."""
    ticks = os.sysconf("SC_CLK_TCK")

    def uptime() -> float:
        return float(Path("/proc/uptime").read_text().split()[0])

    earliest = uptime()
    holder = start(HOLD, claim_path)
    assert next_line(holder) == "held"
    latest = uptime()
    started = int(claim.process_start(holder.pid) or 0)
    assert earliest - 0.1 <= started / ticks <= latest + 0.1
    kill(holder)
    assert claim.process_start(holder.pid) is None


def test_a_process_that_exits_does_not_wait_for_its_heartbeat(claim_path: Path) -> None:
    code = "import pathlib, sys; from protoseg.runs import claim\n"
    code += "held = claim.acquire(pathlib.Path(sys.argv[1])); print(held.is_mine())"
    assert finish(start(code, claim_path)) == "True"
    assert claim_path.exists()
    assert claim.live_holder(claim_path) is None


def test_several_heartbeats_may_be_missed_before_a_claim_is_stale() -> None:
    assert 10 * claim.HEARTBEAT_SECONDS <= claim.STALE_SECONDS
    assert claim.LOCK_SECONDS < claim.STALE_SECONDS


def test_a_process_with_a_reused_pid_is_not_the_holder(claim_path: Path) -> None:
    write_claim(claim_path, process_started="1")
    assert claim.live_holder(claim_path) is None
    held = claim.acquire(claim_path)
    assert held is not None
    held.release()


@pytest.mark.parametrize(
    ("age", "alive"),
    [(0.0, True), (0.999 * claim.STALE_SECONDS, True), (claim.STALE_SECONDS, False)],
)
def test_the_age_at_which_a_heartbeat_is_stale(age: float, alive: bool) -> None:
    holder = claim.Holder("other/boot", 1, process_started="1", nonce="left", job="")
    assert holder.is_alive(age) == alive


@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (claim.STALE_SECONDS, False)])
def test_a_holder_on_another_host_is_alive_while_its_heartbeat_is_fresh(
    claim_path: Path, age: float, alive: bool
) -> None:
    write_claim(claim_path, age, host="other/boot", pid=1, process_started="1")
    assert (claim.live_holder(claim_path) is not None) == alive
    held = claim.acquire(claim_path)
    assert (held is None) == alive
    if held:
        held.release()


def test_this_machine_before_its_reboot_counts_as_another_host(claim_path: Path) -> None:
    name, _, boot = claim.host_identity().partition("/")
    assert boot
    write_claim(claim_path, 2 * claim.STALE_SECONDS, host=f"{name}/before")
    assert claim.live_holder(claim_path) is None


def test_a_machine_without_proc_is_identified_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    name = claim.host_identity().partition("/")[0]
    monkeypatch.setattr(claim.Path, "read_text", refuse)
    monkeypatch.setattr(claim.os, "readlink", refuse)
    assert claim.host_identity() == f"{name}//"
    assert claim.process_start(os.getpid()) is None


def test_a_held_claim_is_touched_as_a_heartbeat(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.02)
    held = claim.acquire(claim_path)
    assert held is not None
    os.utime(claim_path, (0, 0))
    before = time.time()
    wait_until(lambda: claim_path.stat().st_mtime > 0, "a heartbeat")
    assert claim_path.stat().st_mtime >= before - 1
    held.release()


def test_the_heartbeat_continues_without_a_file(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.01)
    held = claim.acquire(claim_path)
    assert held is not None
    claim_path.unlink()
    beats = []
    real_read = claim.read_claim
    monkeypatch.setattr(claim, "read_claim", lambda path: beats.append(path) or real_read(path))
    wait_until(lambda: len(beats) > 2, "two heartbeats without a file")
    assert not held.is_mine()
    held.release()


def test_release_keeps_the_claim_of_another_worker(claim_path: Path) -> None:
    held = claim.acquire(claim_path)
    assert held is not None
    write_claim(claim_path, nonce="successor")
    assert not held.is_mine()
    held.release()
    current = claim.read_claim(claim_path)
    assert current is not None
    assert current[0].nonce == "successor"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": "a"}', "null"])
def test_a_damaged_claim_is_stale(claim_path: Path, content: str) -> None:
    claim_path.write_text(content)
    assert claim.live_holder(claim_path) is None
    held = claim.acquire(claim_path)
    assert held is not None
    assert held.is_mine()
    held.release()


def test_a_claim_created_after_the_read_is_put_back(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes over between the read of a stale claim and its removal."""
    write_claim(claim_path, process_started="1", nonce="stale")
    real_read = claim.read_claim
    reads = []

    def read_and_count(path: Path) -> tuple[claim.Holder, float] | None:
        current = real_read(path)
        if not reads:
            write_claim(claim_path, nonce="faster")
        reads.append(path)
        return current

    monkeypatch.setattr(claim, "read_claim", read_and_count)
    assert claim.acquire(claim_path) is None
    holder = claim.live_holder(claim_path)
    assert holder is not None
    assert holder.nonce == "faster"


def test_a_second_worker_waits_for_the_lock_and_reads_again(
    claim_path: Path, lock_wait: threading.Event
) -> None:
    write_claim(claim_path, process_started="1", nonce="stale")
    results: list[claim.Claim | None] = []
    second = threading.Thread(target=lambda: results.append(claim.acquire(claim_path)))
    with open(claim_path.with_name(f".{claim_path.name}.lock"), "ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        assert lock_wait.wait(DEADLINE), "the second worker did not wait for the lock"
        write_claim(claim_path, nonce="first")
    second.join(DEADLINE)
    assert results == [None]
    holder = claim.live_holder(claim_path)
    assert holder is not None
    assert holder.nonce == "first"


def test_no_worker_claims_while_another_removes_a_stale_claim(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is released and others try, before and after the rename of a stale claim."""
    write_claim(claim_path, process_started="1")
    others: list[subprocess.Popen[str]] = []
    printed: list[str] = []
    real_remove, real_rename = claim._remove_stale, os.rename

    def start_other() -> None:
        others.append(start(TRY_AND_KEEP, claim_path))
        printed.append(next_line(others[-1]))

    def remove(path: Path, is_alive: Callable[..., bool]) -> None:
        def check_and_release(current: tuple[claim.Holder, float] | None) -> bool:
            result = is_alive(current)
            path.unlink()
            start_other()
            return result

        real_remove(path, check_and_release)

    def rename(path: Path, target: Path) -> None:
        real_rename(path, target)
        start_other()

    monkeypatch.setattr(claim, "_remove_stale", remove)
    monkeypatch.setattr(claim.os, "rename", rename)
    held = claim.acquire(claim_path)
    assert held is not None
    assert printed, "no other worker tried"
    assert set(printed) == {"waiting"}, "the lock is held here"
    assert {finish(other) for other in others} == {"refused"}
    assert held.is_mine()
    held.release()


def test_a_missing_claim_is_not_renamed_without_locks(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim may have been created since the read: a third worker would see none."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def read_and_count(path: Path) -> None:
        write_claim(path, nonce="faster")

    def rename(*_: object) -> None:
        pytest.fail("another worker's claim was renamed")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    monkeypatch.setattr(claim, "read_claim", read_and_count)
    monkeypatch.setattr(claim.os, "rename", rename)
    claim._remove_stale(claim_path, lambda current: current is not None)


def test_release_waits_for_a_worker_that_takes_over(
    claim_path: Path, lock_wait: threading.Event
) -> None:
    """A suspended holder continues while another worker takes over; it removes only its own."""
    held = claim.acquire(claim_path)
    assert held is not None
    releasing = threading.Thread(target=held.release)
    with open(claim_path.with_name(f".{claim_path.name}.lock"), "ab") as taker:
        fcntl.flock(taker, fcntl.LOCK_EX)
        releasing.start()
        assert lock_wait.wait(DEADLINE), "the release did not wait for the lock"
        write_claim(claim_path, nonce="taker")
    releasing.join(DEADLINE)
    assert not releasing.is_alive()
    holder = claim.live_holder(claim_path)
    assert holder is not None
    assert holder.nonce == "taker"


def test_a_worker_that_lost_its_claim_does_not_touch_the_new_one(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.02)
    held = claim.acquire(claim_path)
    assert held is not None
    assert not held.taken_over()
    write_claim(claim_path, age=500.0, nonce="taker")
    held._thread.join(DEADLINE)
    assert held.taken_over()
    current = claim.read_claim(claim_path)
    assert current is not None
    assert current[1] > 400


def test_a_hidden_process_is_alive_while_its_heartbeat_is_fresh(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc mounted with hidepid hides the processes of other accounts."""

    def refuse(*_: object) -> None:
        raise PermissionError

    write_claim(claim_path, pid=2**22 + 1)
    monkeypatch.setattr(claim.os, "kill", refuse)
    assert claim.live_holder(claim_path) is not None
    assert claim.acquire(claim_path) is None
    write_claim(claim_path, age=500.0, pid=2**22 + 1)
    assert claim.live_holder(claim_path) is None


def test_a_process_whose_files_are_refused_is_alive_while_its_heartbeat_is_fresh(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc shows the process, but not its files (a security module)."""

    read_bytes = Path.read_bytes

    def refuse_proc(path: Path) -> bytes:
        if path.is_relative_to("/proc"):
            raise PermissionError
        return read_bytes(path)

    write_claim(claim_path, process_started="1")
    monkeypatch.setattr(claim.Path, "read_bytes", refuse_proc)
    assert claim.live_holder(claim_path) is not None
    assert claim.acquire(claim_path) is None
    write_claim(claim_path, age=500.0, process_started="1")
    assert claim.live_holder(claim_path) is None


@pytest.mark.parametrize("pid", [0.5, "7", None, 2**80], ids=["half", "text", "none", "huge"])
def test_a_claim_with_a_damaged_pid_is_stale(claim_path: Path, pid: object) -> None:
    write_claim(claim_path, pid=pid)
    assert claim.live_holder(claim_path) is None


def test_a_fast_clock_makes_no_claim_stale(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(claim.time, "time", lambda: now() + 200)
    write_claim(claim_path, host="other/1/2")
    os.utime(claim_path)
    assert claim.acquire(claim_path) is None
    write_claim(claim_path, host="other/1/2", age=500.0)
    held = claim.acquire(claim_path)
    assert held is not None
    held.release()


def test_the_clock_of_a_file_system_is_that_of_its_files(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    claim_path.touch()
    os.utime(claim_path, (0, 0))
    monkeypatch.setattr(claim.time, "time", lambda: now() + 1000)
    assert 990 < claim._clock_ahead(claim_path) < 1000 + DEADLINE
    assert claim._clock_ahead(claim_path.with_name("missing")) == 0.0


def test_a_repeated_link_still_gets_the_claim(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system repeats a link after a lost answer, and finds its own file."""
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(claim.os, "link", link_twice)
    held = claim.acquire(claim_path)
    assert held is not None
    assert held.is_mine()
    held.release()


def test_a_suspended_process_with_the_lock_delays_others_only_for_a_while(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LOCK_SECONDS", 0.1)
    write_claim(claim_path, process_started="1")
    with open(claim_path.with_name(f".{claim_path.name}.lock"), "ab") as suspended:
        fcntl.flock(suspended, fcntl.LOCK_EX)
        held = claim.acquire(claim_path)
        assert held is not None
        held.release()
    assert not claim_path.exists()


def test_a_claim_released_and_taken_before_the_read_is_kept(
    claim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The creation fails, the claim is released before the read, and another worker takes it."""
    write_claim(claim_path)
    reads = []

    def read_and_count(path: Path) -> tuple[claim.Holder, float] | None:
        reads.append(path)
        return None if len(reads) == 1 else real_read(path)

    real_read = claim.read_claim
    monkeypatch.setattr(claim, "read_claim", read_and_count)
    assert claim.acquire(claim_path) is None
    holder = claim.live_holder(claim_path)
    assert holder is not None
    assert holder.nonce == "left"


@pytest.mark.parametrize(
    ("age", "job", "answer", "alive"),
    [
        (1.0, "7_0", False, True),
        (900.0, "7_0", True, True),
        (900.0, "7_0", None, True),
        (900.0, "7_0", False, False),
        (900.0, "8_3", True, False),
        (900.0, "", True, False),
    ],
    ids=[
        "fresh heartbeat",
        "its job runs",
        "the scheduler does not answer",
        "its job has ended",
        "the caller's own job, requeued",
        "no job",
    ],
)
def test_a_claim_on_another_host_is_stale_if_heartbeat_and_scheduler_agree(
    tmp_path: Path, age: float, job: str, answer: bool | None, alive: bool
) -> None:
    path = tmp_path / "claim.json"
    holder = {"host": "other", "pid": 1, "process_started": "1", "nonce": "n", "job": job}
    path.write_text(json.dumps(holder))
    os.utime(path, (time.time() - age,) * 2)
    asked_jobs: list[str] = []

    def job_is_active(key: str) -> bool | None:
        asked_jobs.append(key)
        return answer

    taken = claim.acquire(path, job="8_3", job_is_active=job_is_active)
    assert (taken is None) == alive
    assert set(asked_jobs) <= {"7_0"}
    if taken is not None:
        taken.release()
