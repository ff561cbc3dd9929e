"""Writing a checkpoint: killed at each step, flipped bits, a full disk."""

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
from protoseg.training.builders.components import TrainingComponents, build_components
from protoseg.training.builders.config import build_config
from training.small import small_spec
from training.test_checkpoint import names, save_at

OnStep = Callable[[str], None]


@pytest.fixture(scope="module")
def parts(shapes_root: Path) -> TrainingComponents:
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        return build_components(build_config(small_spec(), data_root=shapes_root), None)


class WatchedFile:
    """A file that reports each write."""

    def __init__(self, file: Any, on_step: OnStep) -> None:
        self.file, self.on_step = file, on_step

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        """Write the first half, report a step, write the second half."""
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.on_step("write")
        return half + int(self.file.write(data[half:]))


def watch_disk(on_step: OnStep) -> None:
    """Call ``on_step`` before each disk operation of `checkpoint.save`; cannot be undone."""
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def watched_open(path: Path, mode: str, **options: Any) -> Any:
        if mode == "rb":
            return open(path, mode, **options)
        on_step(f"open {path.suffix}")
        return WatchedFile(open(path, mode, **options), on_step)

    def watched_fsync(descriptor: int) -> None:
        is_folder = Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()
        on_step("sync folder" if is_folder else "sync")
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        on_step(f"rename {new.suffix}")
        replace(old, new)

    def watched_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            on_step(f"remove {path.suffix}")
        unlink(path, missing_ok)

    files.open = watched_open  # type: ignore[attr-defined]
    os.fsync, os.replace = watched_fsync, watched_replace  # type: ignore[assignment]
    Path.unlink = watched_unlink  # type: ignore[assignment, method-assign]


def run_in_fork(work: Callable[[], None]) -> int:
    """Call a function in a fork of this process; returns the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def list_steps_of_save(parts: TrainingComponents, folder: Path, log: Path) -> list[str]:
    """The disk operations of a save, in order; ``folder`` already has two checkpoints."""

    def work() -> None:
        with open(log, "w") as file:
            watch_disk(lambda step: print(step, file=file))
            save_at(parts, folder, 3)

    assert run_in_fork(work) == 0
    return log.read_text().splitlines()


def test_a_kill_at_any_step_leaves_a_valid_checkpoint(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    """Kill the writer before each step, and in the middle of a sample of the writes."""
    before = tmp_path / "before"
    save_at(parts, before, 1, 2)
    shutil.copytree(before, tmp_path / "counted")
    steps = list_steps_of_save(parts, tmp_path / "counted", tmp_path / "steps")
    writes = [n for n, step in enumerate(steps) if step == "write"]
    sampled = {writes[0], writes[-2], writes[-1], *random.Random(0).sample(writes, 6)}
    order = [step for n, step in enumerate(steps) if step != "write" or steps[n - 1] != "write"]
    atomic_write = ["open .tmp", "write", "sync", "rename {}", "sync folder"]
    assert order == [
        *(step.format(suffix) for suffix in (".pth", ".json") for step in atomic_write),
        *("remove .json", "remove .pth"),
    ], "the digest file is begun once the checkpoint is on disk under its final name"
    for number, step in enumerate(steps):
        if step == "write" and number not in sampled:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(before, folder)
        counter = iter(range(number + 1))

        def kill_at_last(_: str, counter: Iterator[int] = counter, last: int = number) -> None:
            if next(counter) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(on_step: OnStep = kill_at_last, folder: Path = folder) -> None:
            watch_disk(on_step)
            save_at(parts, folder, 3)

        assert run_in_fork(work) == signal.SIGKILL, (number, step)
        newest, problems = checkpoint.find_newest(folder)
        assert newest is not None
        expected = 3 if (folder / "iter_00000003.json").exists() else 2
        assert newest.iteration == expected, (number, step, names(folder))
        has_incomplete = (folder / "iter_00000003.pth").exists() and expected == 2
        assert len(problems) == has_incomplete, (step, problems)
        assert checkpoint.restore(parts, newest) == {"at": expected}
        save_at(parts, folder, 4)
        assert checkpoint.find_newest(folder)[0].iteration == 4
        assert len(names(folder)) == 4, "two checkpoints, and no file of the killed writer"
        shutil.rmtree(folder)


# Flipped bits


def flip_bits(content: bytes, positions: Iterator[int]) -> Iterator[bytes]:
    """The content with one random bit flipped at each position."""
    draw = random.Random(0)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def test_a_flipped_bit_at_any_position_is_detected(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    save_at(parts, tmp_path, 4, 8)
    path = tmp_path / "iter_00000008.pth"
    content = path.read_bytes()
    draw = random.Random(1)
    positions = [0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(60))]
    for damaged in flip_bits(content, iter(positions)):
        path.write_bytes(damaged)
        newest, problems = checkpoint.find_newest(tmp_path)
        assert (newest.iteration, len(problems)) == (4, 1)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert checkpoint.find_newest(tmp_path)[0].iteration == 4
    path.write_bytes(content + b"\0")
    assert checkpoint.find_newest(tmp_path)[0].iteration == 4


def test_a_flipped_bit_in_a_digest_file_never_changes_the_iteration(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    """Flip bits of every byte: a wrong iteration would resume the training at the wrong point."""
    save_at(parts, tmp_path, 4, 8)
    digest_file = tmp_path / "iter_00000008.json"
    content = digest_file.read_bytes()
    detected = 0
    for _ in range(2):
        for damaged in flip_bits(content, iter(range(len(content)))):
            digest_file.write_bytes(damaged)
            newest, problems = checkpoint.find_newest(tmp_path)
            if problems:
                assert newest.iteration == 4
                detected += 1
            else:  # a blank became another blank
                assert (newest.iteration, newest.path.name) == (8, "iter_00000008.pth")
    assert detected > 1.8 * len(content)
    digest_file.write_bytes(content.replace(b'"iteration": 8', b'"iteration": 9'))
    assert checkpoint.find_newest(tmp_path)[0].iteration == 4


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(mount_point)]
    try:
        mount = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if mount.returncode:
        pytest.skip(f"needs to mount a file system: {mount.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)


@pytest.mark.parametrize("space", ["none", "half", "for all but the digest file"])
def test_a_full_disk_leaves_older_checkpoints_valid(
    parts: TrainingComponents, disk: Path, space: str
) -> None:
    folder = disk / "checkpoints"
    save_at(parts, folder, 1, 2)
    before = names(folder)
    size = -(-(folder / "iter_00000002.pth").stat().st_size // 4096) * 4096
    free = {"none": 0, "half": size // 2, "for all but the digest file": size}[space]
    fails_at_digest = space == "for all but the digest file"
    state = os.statvfs(disk)
    filler = disk / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_bsize - free)
    with pytest.raises(StorageError, match="no space left on the disk") as caught:
        save_at(parts, folder, 3)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert ("iter_00000003.json" in str(caught.value)) == fails_at_digest
    newest, problems = checkpoint.find_newest(folder)
    assert newest.iteration == 2
    assert len(problems) == fails_at_digest
    assert set(before) <= set(names(folder))
    assert not list(folder.glob("*.tmp")), "the incomplete file is removed"
    assert checkpoint.restore(parts, newest) == {"at": 2}
    filler.unlink()
    save_at(parts, folder, 3)
    assert names(folder) == [n for n in names(folder) if "00000002" in n or "00000003" in n]
    assert len(names(folder)) == 4
