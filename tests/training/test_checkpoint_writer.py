"""The writer of a checkpoint dies at every step of its work, the disk is full, bytes rot."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protoseg import files
from protoseg.files import StorageError
from protoseg.training import checkpoint
from protoseg.training.build.components import TrainingComponents, build_components
from protoseg.training.build.config import build_config
from training.small import small_spec
from training.test_checkpoint import names, save_at

Step = Callable[[str], None]


@pytest.fixture(scope="module")
def parts(shapes_root: Path) -> TrainingComponents:
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        return build_components(build_config(small_spec(), data_root=shapes_root), None)


class Watched:
    """A file that says when it is written to."""

    def __init__(self, file: Any, step: Step) -> None:
        self.file, self.step = file, step

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        """Half of it, a step, the other half."""
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.step("write")
        return half + int(self.file.write(data[half:]))


def watch(step: Step) -> None:
    """Call ``step`` before each thing that `checkpoint.save` does to the disk; for good."""
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def opened(path: Path, mode: str, **more: Any) -> Any:
        if mode == "rb":
            return open(path, mode, **more)
        step(f"open {path.suffix}")
        return Watched(open(path, mode, **more), step)

    def synced(descriptor: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()
        step("sync folder" if folder else "sync")
        fsync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        step(f"rename {new.suffix}")
        replace(old, new)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            step(f"remove {path.suffix}")
        unlink(path, missing_ok)

    files.open = opened  # type: ignore[attr-defined]
    os.fsync, os.replace, Path.unlink = synced, replaced, unlinked  # type: ignore[assignment]


def in_a_fork(work: Callable[[], None]) -> int:
    """Do something in a copy of this process; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def steps_of_a_save(parts: TrainingComponents, folder: Path, notes: Path) -> list[str]:
    """What a save does to the disk, in order; ``folder`` has the two checkpoints that are kept."""

    def work() -> None:
        with open(notes, "w") as file:
            watch(lambda what: print(what, file=file))
            save_at(parts, folder, 3)

    assert in_a_fork(work) == 0
    return notes.read_text().splitlines()


def test_a_kill_at_every_step_leaves_whole_ones(parts: TrainingComponents, tmp_path: Path) -> None:
    """Kill before each step; of the many writes into the file, a few and in their midst."""
    before = tmp_path / "before"
    save_at(parts, before, 1, 2)
    shutil.copytree(before, tmp_path / "counted")
    steps = steps_of_a_save(parts, tmp_path / "counted", tmp_path / "notes")
    writes = [n for n, what in enumerate(steps) if what == "write"]
    few = {writes[0], writes[-2], writes[-1], *random.Random(0).sample(writes, 6)}
    order = [what for n, what in enumerate(steps) if what != "write" or steps[n - 1] != "write"]
    whole = ["write", "sync", "rename {}", "sync folder"]
    assert order == [
        *(what.format(kind) for kind in (".pth", ".json") for what in ("open .tmp", *whole)),
        *("remove .json", "remove .pth"),
    ], "on the disk before it has its name, its name on the disk before its note is begun"
    for at, what in enumerate(steps):
        if what == "write" and at not in few:
            continue
        folder = tmp_path / str(at)
        shutil.copytree(before, folder)
        left = iter(range(at + 1))

        def step(_: str, left: Iterator[int] = left, last: int = at) -> None:
            if next(left) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(step: Step = step, folder: Path = folder) -> None:
            watch(step)
            save_at(parts, folder, 3)

        assert in_a_fork(work) == signal.SIGKILL, (at, what)
        found, problems = checkpoint.newest(folder)
        assert found is not None
        expected = 3 if (folder / "iter_00000003.json").exists() else 2
        assert found.iteration == expected, (at, what, names(folder))
        torn = (folder / "iter_00000003.pth").exists() and expected == 2
        assert len(problems) == torn, (what, problems)
        assert checkpoint.restore(parts, found) == {"at": expected}
        save_at(parts, folder, 4)
        assert checkpoint.newest(folder)[0].iteration == 4
        assert len(names(folder)) == 4, "two are kept, and nothing that the dead one left"
        shutil.rmtree(folder)


# Rot


def flips(content: bytes, positions: Iterator[int]) -> Iterator[bytes]:
    draw = random.Random(0)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def test_a_flipped_bit_is_noticed_wherever_it_is(parts: TrainingComponents, tmp_path: Path) -> None:
    save_at(parts, tmp_path, 4, 8)
    path = tmp_path / "iter_00000008.pth"
    content = path.read_bytes()
    draw = random.Random(1)
    positions = [0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(60))]
    for damaged in flips(content, iter(positions)):
        path.write_bytes(damaged)
        found, problems = checkpoint.newest(tmp_path)
        assert (found.iteration, len(problems)) == (4, 1)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert checkpoint.newest(tmp_path)[0].iteration == 4
    path.write_bytes(content + b"\0")
    assert checkpoint.newest(tmp_path)[0].iteration == 4


def test_a_note_with_a_flipped_bit_never_leads_astray(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    """Of the note, too, every byte: an iteration that is another one would be another training."""
    save_at(parts, tmp_path, 4, 8)
    note = tmp_path / "iter_00000008.json"
    content = note.read_bytes()
    noticed = 0
    for _ in range(2):
        for damaged in flips(content, iter(range(len(content)))):
            note.write_bytes(damaged)
            found, problems = checkpoint.newest(tmp_path)
            if problems:
                assert found.iteration == 4
                noticed += 1
            else:  # a blank that became another blank
                assert (found.iteration, found.path.name) == (8, "iter_00000008.pth")
    assert noticed > 1.8 * len(content)
    note.write_bytes(content.replace(b'"iteration": 8', b'"iteration": 9'))
    assert checkpoint.newest(tmp_path)[0].iteration == 4


# A disk that is full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if mounted.returncode:
        pytest.skip(f"needs to mount a file system: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("room", ["none", "half", "for all but the note"])
def test_a_disk_that_is_full_leaves_the_old_ones_whole(
    parts: TrainingComponents, disk: Path, room: str
) -> None:
    folder = disk / "checkpoints"
    save_at(parts, folder, 1, 2)
    before = names(folder)
    size = -(-(folder / "iter_00000002.pth").stat().st_size // 4096) * 4096
    leave = {"none": 0, "half": size // 2, "for all but the note": size}[room]
    state = os.statvfs(disk)
    filler = disk / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_bsize - leave)
    with pytest.raises(StorageError, match="no space left on the disk") as caught:
        save_at(parts, folder, 3)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert ("iter_00000003.json" in str(caught.value)) == (room == "for all but the note")
    found, problems = checkpoint.newest(folder)
    assert found.iteration == 2
    assert len(problems) == (room == "for all but the note")
    assert set(before) <= set(names(folder))
    assert not list(folder.glob("*.tmp")), "what was half-written makes room"
    assert checkpoint.restore(parts, found) == {"at": 2}
    filler.unlink()
    save_at(parts, folder, 3)
    assert names(folder) == [n for n in names(folder) if "00000002" in n or "00000003" in n]
    assert len(names(folder)) == 4
