"""At most one live worker holds a run, whoever else tries and however the holder died."""

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
barrier.wait()  # everyone has tried
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
    """Set as soon as a thread waits for a lock that is held."""
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
def place(tmp_path: Path) -> Path:
    return tmp_path / "claim.json"


def leave(place: Path, age: float = 0.0, **changes: object) -> None:
    """A claim of somebody else: ours, with changes."""
    mine = claim.Holder(
        host=claim.host_identity(),
        pid=os.getpid(),
        process_started=claim.process_start(os.getpid()) or "",
        nonce="left",
        job="",
    )
    files.write_json(place, dataclasses.asdict(mine) | changes)
    then = time.time() - age
    os.utime(place, (then, then))


def test_a_claim_is_held_until_it_is_released(place: Path) -> None:
    first = claim.acquire(place, job="17")
    assert first is not None
    assert first.is_mine()
    holder = claim.live_holder(place)
    assert holder is not None
    assert (holder.pid, holder.job) == (os.getpid(), "17")
    assert claim.acquire(place) is None
    first.release()
    assert not place.exists()
    again = claim.acquire(place)
    assert again is not None
    again.release()


def test_of_eight_processes_one_gets_the_claim(place: Path) -> None:
    printed = race(TRY_TOGETHER, place)
    assert sorted(printed) == ["held\nTrue", *["refused"] * 7]


@pytest.mark.parametrize("round_", range(3))
def test_of_eight_processes_one_takes_over_from_the_dead(place: Path, round_: int) -> None:
    holder = start(HOLD, place)
    assert next_line(holder) == "held"
    kill(holder)
    printed = race(TRY_TOGETHER, place)
    assert sorted(printed) == ["held\nTrue", *["refused"] * 7]
    assert not [p for p in place.parent.iterdir() if p.suffix in (".stale", ".tmp")]


def test_kill_9_makes_the_claim_stale_at_once(place: Path) -> None:
    holder = start(HOLD, place)
    assert next_line(holder) == "held"
    assert claim.live_holder(place) is not None
    kill(holder)
    assert place.exists(), "nobody cleaned up"
    assert claim.live_holder(place) is None
    mine = claim.acquire(place)
    assert mine is not None
    mine.release()


def test_a_zombie_holds_nothing(place: Path) -> None:
    holder = start(HOLD, place)
    next_line(holder)
    holder.kill()
    wait_until(lambda: claim.live_holder(place) is None, "the end of the killed holder")
    assert Path(f"/proc/{holder.pid}/stat").exists(), "not waited for: still in the process table"
    holder.communicate()


def test_a_live_holder_is_never_robbed_however_old_its_heartbeat(place: Path) -> None:
    holder = start(HOLD, place)
    assert next_line(holder) == "held"
    long_ago = time.time() - 100 * claim.STALE_SECONDS
    os.utime(place, (long_ago, long_ago))
    assert claim.acquire(place) is None
    assert claim.live_holder(place) is not None
    kill(holder)


def test_a_reused_pid_is_another_process(place: Path) -> None:
    leave(place, process_started="1")
    assert claim.live_holder(place) is None
    mine = claim.acquire(place)
    assert mine is not None
    mine.release()


@pytest.mark.parametrize(
    ("age", "alive"),
    [(0.0, True), (0.999 * claim.STALE_SECONDS, True), (claim.STALE_SECONDS, False)],
)
def test_the_age_at_which_a_heartbeat_is_stale(age: float, alive: bool) -> None:
    holder = claim.Holder("elsewhere/boot", 1, process_started="1", nonce="left", job="")
    assert holder.is_alive(age) == alive


@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (claim.STALE_SECONDS, False)])
def test_another_host_is_judged_by_its_heartbeat(place: Path, age: float, alive: bool) -> None:
    leave(place, age, host="elsewhere/boot", pid=1, process_started="1")
    assert (claim.live_holder(place) is not None) == alive
    mine = claim.acquire(place)
    assert (mine is None) == alive
    if mine:
        mine.release()


def test_the_same_machine_before_its_reboot_is_another_host(place: Path) -> None:
    name, _, boot = claim.host_identity().partition("/")
    assert boot
    leave(place, 2 * claim.STALE_SECONDS, host=f"{name}/before")
    assert claim.live_holder(place) is None


def test_the_heartbeat_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.02)
    held = claim.acquire(place)
    assert held is not None
    os.utime(place, (0, 0))
    before = time.time()
    wait_until(lambda: place.stat().st_mtime > 0, "a heartbeat")
    assert place.stat().st_mtime >= before - 1
    held.release()


def test_a_heartbeat_survives_a_missing_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.01)
    held = claim.acquire(place)
    assert held is not None
    place.unlink()
    beats = []
    real_read = claim.read
    monkeypatch.setattr(claim, "read", lambda path: beats.append(path) or real_read(path))
    wait_until(lambda: len(beats) > 2, "two heartbeats without a file")
    assert not held.is_mine()
    held.release()


def test_release_leaves_the_claim_of_a_successor(place: Path) -> None:
    held = claim.acquire(place)
    assert held is not None
    leave(place, nonce="successor")
    assert not held.is_mine()
    held.release()
    found = claim.read(place)
    assert found is not None
    assert found[0].nonce == "successor"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": "a"}', "null"])
def test_a_damaged_claim_holds_nothing(place: Path, content: str) -> None:
    place.write_text(content)
    assert claim.live_holder(place) is None
    mine = claim.acquire(place)
    assert mine is not None
    assert mine.is_mine()
    mine.release()


def test_a_claim_made_while_we_looked_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look at a stale claim and our taking it away another worker took over."""
    leave(place, process_started="1", nonce="stale")
    real_read = claim.read
    looks = []

    def read(path: Path) -> tuple[claim.Holder, float] | None:
        found = real_read(path)
        if not looks:
            leave(place, nonce="quicker")
        looks.append(path)
        return found

    monkeypatch.setattr(claim, "read", read)
    assert claim.acquire(place) is None
    holder = claim.live_holder(place)
    assert holder is not None
    assert holder.nonce == "quicker"


def test_a_second_taker_waits_for_the_first_and_looks_again(
    place: Path, lock_wait: threading.Event
) -> None:
    leave(place, process_started="1", nonce="stale")
    results: list[claim.Claim | None] = []
    second = threading.Thread(target=lambda: results.append(claim.acquire(place)))
    with open(place.with_name(f".{place.name}.lock"), "ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        assert lock_wait.wait(DEADLINE), "the second one did not wait for the lock"
        leave(place, nonce="first")
    second.join(DEADLINE)
    assert results == [None]
    holder = claim.live_holder(place)
    assert holder is not None
    assert holder.nonce == "first"


def test_nobody_claims_while_a_taker_still_removes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is released and others want it, between a taker's look and its rename and after."""
    leave(place, process_started="1")
    others: list[subprocess.Popen[str]] = []
    progress: list[str] = []
    real_remove, real_rename = claim._remove_stale, os.rename

    def want_it_too() -> None:
        others.append(start(TRY_AND_KEEP, place))
        progress.append(next_line(others[-1]))

    def remove(path: Path, alive: Callable[..., bool]) -> None:
        def look(found: tuple[claim.Holder, float] | None) -> bool:
            answer = alive(found)
            path.unlink()
            want_it_too()
            return answer

        real_remove(path, look)

    def rename(path: Path, to: Path) -> None:
        real_rename(path, to)
        want_it_too()

    monkeypatch.setattr(claim, "_remove_stale", remove)
    monkeypatch.setattr(claim.os, "rename", rename)
    mine = claim.acquire(place)
    assert mine is not None
    assert progress, "nobody else tried"
    assert set(progress) == {"waiting"}, "the lock is ours"
    assert {finish(other) for other in others} == {"refused"}
    assert mine.is_mine()
    mine.release()


def test_without_locks_a_missing_claim_is_not_renamed_away(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been made since: a third worker would find its place empty."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def read(path: Path) -> None:
        leave(path, nonce="quicker")

    def rename(*_: object) -> None:
        pytest.fail("the claim of another was moved")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    monkeypatch.setattr(claim, "read", read)
    monkeypatch.setattr(claim.os, "rename", rename)
    claim._remove_stale(place, lambda found: found is not None)


def test_a_release_waits_for_who_takes_over(place: Path, lock_wait: threading.Event) -> None:
    """A stopped holder wakes up while another takes its claim: it removes only its own."""
    held = claim.acquire(place)
    assert held is not None
    releasing = threading.Thread(target=held.release)
    with open(place.with_name(f".{place.name}.lock"), "ab") as taker:
        fcntl.flock(taker, fcntl.LOCK_EX)
        releasing.start()
        assert lock_wait.wait(DEADLINE), "the release did not wait for the lock"
        leave(place, nonce="taker")
    releasing.join(DEADLINE)
    assert not releasing.is_alive()
    holder = claim.live_holder(place)
    assert holder is not None
    assert holder.nonce == "taker"


def test_who_was_taken_over_keeps_no_foreign_claim_alive(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.02)
    held = claim.acquire(place)
    assert held is not None
    assert not held.taken_over()
    leave(place, age=500.0, nonce="taker")
    held._thread.join(DEADLINE)
    assert held.taken_over()
    found = claim.read(place)
    assert found is not None
    assert found[1] > 400


def test_a_process_that_is_hidden_is_judged_by_its_heartbeat(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc mounted with hidepid shows nobody the processes of another account."""

    def not_yours(*_: object) -> None:
        raise PermissionError

    leave(place, pid=2**22 + 1)
    monkeypatch.setattr(claim.os, "kill", not_yours)
    assert claim.live_holder(place) is not None
    assert claim.acquire(place) is None
    leave(place, age=500.0, pid=2**22 + 1)
    assert claim.live_holder(place) is None


def test_a_clock_that_runs_ahead_makes_no_claim_stale(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(claim.time, "time", lambda: now() + 200)
    leave(place, host="other/1/2")
    os.utime(place)
    assert claim.acquire(place) is None
    leave(place, host="other/1/2", age=500.0)
    mine = claim.acquire(place)
    assert mine is not None
    mine.release()


def test_a_link_whose_answer_was_lost_is_no_refusal(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system sends it again, and finds that the name is taken: by itself."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(claim.os, "link", twice)
    mine = claim.acquire(place)
    assert mine is not None
    assert mine.is_mine()
    mine.release()


def test_who_is_stopped_with_the_lock_holds_nobody_up_for_ever(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LOCK_SECONDS", 0.1)
    leave(place, process_started="1")
    with open(place.with_name(f".{place.name}.lock"), "ab") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        mine = claim.acquire(place)
        assert mine is not None
        mine.release()
    assert not place.exists()


def test_a_claim_released_and_taken_while_we_looked_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We failed to create it, it was released before we read it, and then taken by another."""
    leave(place)
    looks = []

    def read(path: Path) -> tuple[claim.Holder, float] | None:
        looks.append(path)
        return None if len(looks) == 1 else real_read(path)

    real_read = claim.read
    monkeypatch.setattr(claim, "read", read)
    assert claim.acquire(place) is None
    holder = claim.live_holder(place)
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
        "it beats",
        "its job runs",
        "nobody can tell",
        "both agree that it is gone",
        "my own job, requeued",
        "no job at all",
    ],
)
def test_a_claim_elsewhere_is_stale_when_heartbeat_and_scheduler_agree(
    tmp_path: Path, age: float, job: str, answer: bool | None, alive: bool
) -> None:
    path = tmp_path / "claim.json"
    theirs = {"host": "elsewhere", "pid": 1, "process_started": "1", "nonce": "n", "job": job}
    path.write_text(json.dumps(theirs))
    os.utime(path, (time.time() - age,) * 2)
    asked: list[str] = []

    def job_is_active(key: str) -> bool | None:
        asked.append(key)
        return answer

    taken = claim.acquire(path, job="8_3", job_is_active=job_is_active)
    assert (taken is None) == alive
    assert set(asked) <= {"7_0"}
    if taken is not None:
        taken.release()
