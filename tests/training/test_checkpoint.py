"""Checkpoints: restore the whole state, keep two, and survive errors and takeovers."""

from __future__ import annotations

import copy
import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protoseg import files
from protoseg.files import StorageError
from protoseg.training import checkpoint
from protoseg.training.builders.components import TrainingComponents, build_components
from protoseg.training.builders.config import build_config
from protoseg.training.signals import ClaimLost
from training.small import small_spec


@pytest.fixture
def parts(shapes_root: Path) -> TrainingComponents:
    return build_components(build_config(small_spec(), data_root=shapes_root), None)


def train(parts: TrainingComponents, count: int = 1) -> None:
    batches = iter(parts.train_loader)
    parts.model.train()
    for _ in range(count):
        parts.model.train_step(next(batches), optim_wrapper=parts.optimizer)
        for scheduler in parts.schedulers:
            scheduler.step()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_at(parts: TrainingComponents, folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        checkpoint.save(parts, folder, iteration, {"at": iteration})


def flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield key
            yield from flatten(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flatten(item)
    elif isinstance(value, torch.Tensor):
        yield value.tolist()
    else:
        yield value


def test_a_checkpoint_restores_the_whole_state(
    parts: TrainingComponents, shapes_root: Path, tmp_path: Path
) -> None:
    train(parts, 3)
    saved = checkpoint.save(parts, tmp_path, 3, {"curve": [[1, {"loss": 0.1}]]})
    state = copy.deepcopy(
        [
            parts.module.state_dict(),
            parts.optimizer.state_dict(),
            [s.state_dict() for s in parts.schedulers],
        ]
    )
    numbers = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    train(parts, 2)
    other = build_components(build_config(small_spec("seed=5"), data_root=shapes_root), None)
    newest, problems = checkpoint.find_newest(tmp_path)
    assert newest == saved
    assert problems == []
    extra = checkpoint.restore(other, newest)
    assert extra == {"curve": [[1, {"loss": 0.1}]]}
    restored = [
        other.module.state_dict(),
        other.optimizer.state_dict(),
        [s.state_dict() for s in other.schedulers],
    ]
    assert list(flatten(restored)) == list(flatten(state))
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == numbers
    bank = other.module.decode_head.bank
    assert bank.updates.sum() > 0, "update counts of the prototypes are restored"


def test_the_last_two_checkpoints_are_kept(parts: TrainingComponents, tmp_path: Path) -> None:
    save_at(parts, tmp_path, 1, 2, 3, 10)
    assert names(tmp_path) == [
        "iter_00000003.json",
        "iter_00000003.pth",
        "iter_00000010.json",
        "iter_00000010.pth",
    ]
    assert checkpoint.find_newest(tmp_path)[0].iteration == 10
    assert checkpoint.restore(parts, checkpoint.find_newest(tmp_path)[0]) == {"at": 10}


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.find_newest(tmp_path) == (None, [])
    assert checkpoint.find_newest(tmp_path / "none") == (None, [])


def flip(path: Path, at: int = -5000) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_detected(parts: TrainingComponents, tmp_path: Path) -> None:
    save_at(parts, tmp_path, 4, 8)
    flip(tmp_path / "iter_00000008.pth")
    newest, problems = checkpoint.find_newest(tmp_path)
    assert newest.iteration == 4
    assert problems == ["iter_00000008.pth: damaged, it does not match its digest; skipped"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'"x"', b"{}"])
def test_a_checkpoint_without_a_valid_digest_file_is_skipped(
    parts: TrainingComponents, tmp_path: Path, content: bytes | None
) -> None:
    save_at(parts, tmp_path, 4, 8)
    path = tmp_path / "iter_00000008.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    newest, problems = checkpoint.find_newest(tmp_path)
    assert newest.iteration == 4
    assert len(problems) == 1
    assert problems[0].startswith("iter_00000008.pth: ")
    assert "skipped" in problems[0]


def test_the_digest_file_holds_iteration_and_sha256(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    import hashlib

    save_at(parts, tmp_path, 4)
    content = json.loads((tmp_path / "iter_00000004.json").read_text())
    digest = hashlib.sha256((tmp_path / "iter_00000004.pth").read_bytes()).hexdigest()
    assert content == {"iteration": 4, "sha256": digest}


def test_a_damaged_checkpoint_is_removed_before_a_valid_one(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    save_at(parts, tmp_path, 4, 8)
    flip(tmp_path / "iter_00000008.pth")
    newest, _ = checkpoint.find_newest(tmp_path)
    checkpoint.restore(parts, newest)
    save_at(parts, tmp_path, 12)
    flip(tmp_path / "iter_00000012.pth")
    newest, problems = checkpoint.find_newest(tmp_path)
    assert newest is not None
    assert newest.iteration == 4, (
        "two valid checkpoints are kept, although a damaged one was between them"
    )
    assert len(problems) == 1


def test_a_restarted_run_replaces_damaged_checkpoints(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    save_at(parts, tmp_path, 4, 8)
    flip(tmp_path / "iter_00000004.pth")
    flip(tmp_path / "iter_00000008.pth")
    newest, problems = checkpoint.find_newest(tmp_path)
    assert newest is None
    assert len(problems) == 2
    save_at(parts, tmp_path, 1, 2)
    assert checkpoint.find_newest(tmp_path)[0].iteration == 2
    flip(tmp_path / "iter_00000002.pth")
    assert checkpoint.find_newest(tmp_path)[0].iteration == 1


def test_a_full_disk_does_not_change_older_checkpoints(
    parts: TrainingComponents, tmp_path: Path
) -> None:
    save_at(parts, tmp_path, 1, 2)
    before = names(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "iter_00000002.pth").stat().st_size
    for limit in (size // 2, 1000, 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StorageError, match=r"iter_00000003\.pth: ") as error:
                checkpoint.save(parts, tmp_path, 3, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "Nothing finished was lost" in str(error.value)
        assert names(tmp_path) == before
    newest, problems = checkpoint.find_newest(tmp_path)
    assert (newest.iteration, problems) == (2, [])
    save_at(parts, tmp_path, 3)
    assert checkpoint.find_newest(tmp_path)[0].iteration == 3


def test_a_save_removes_files_of_killed_writers(parts: TrainingComponents, tmp_path: Path) -> None:
    save_at(parts, tmp_path, 1)
    (tmp_path / ".iter_00000002.pth.77-0badcafe.tmp").write_bytes(b"half")
    (tmp_path / "iter_00000002.pth").write_bytes(b"without a digest file")
    save_at(parts, tmp_path, 3)
    assert names(tmp_path) == [
        "iter_00000001.json",
        "iter_00000001.pth",
        "iter_00000003.json",
        "iter_00000003.pth",
    ]


HALF = ".iter_00000200.pth.77-0badcafe.tmp"


class OtherWorker:
    """Another worker that takes the run over while one hangs, resumes it, and saves."""

    def __init__(self, parts: TrainingComponents, folder: Path) -> None:
        self.parts, self.folder = parts, folder
        self.has_started = False

    def start(self) -> None:
        if not self.has_started:
            self.has_started = True
            checkpoint.restore(self.parts, checkpoint.find_newest(self.folder)[0])
            save_at(self.parts, self.folder, 120, 160)
            (self.folder / HALF).write_bytes(b"its next checkpoint")

    def check_ownership(self) -> None:
        if self.has_started:
            raise ClaimLost


@pytest.mark.parametrize(
    ("module", "after"),
    [(checkpoint, "_write_state"), (checkpoint, "_make_digest_entry"), (files, "write_json")],
    ids=["while it writes", "before the digest file", "before it removes old files"],
)
def test_a_worker_that_is_taken_over_while_it_saves_changes_nothing(
    parts: TrainingComponents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    after: str,
) -> None:
    save_at(parts, tmp_path, 40, 80)
    other = OtherWorker(parts, tmp_path)
    original = getattr(module, after)

    def call_and_hang(*arguments: Any) -> Any:
        result = original(*arguments)
        other.start()
        return result

    monkeypatch.setattr(module, after, call_and_hang)
    with pytest.raises(ClaimLost):
        checkpoint.save(parts, tmp_path, 100, {"at": 100}, check_ownership=other.check_ownership)
    assert checkpoint.find_newest(tmp_path)[0].iteration == 160
    assert {"iter_00000120.pth", "iter_00000160.pth", HALF} <= set(names(tmp_path))


def test_a_checkpoint_loads_without_pickled_code(parts: TrainingComponents, tmp_path: Path) -> None:
    train(parts)
    saved = checkpoint.save(parts, tmp_path, 1, {"curve": [[1, {"a": 0.5}]], "seconds": 1.5})
    torch.load(saved.path, weights_only=True)
