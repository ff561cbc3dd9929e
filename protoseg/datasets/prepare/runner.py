"""Carrying out a plan: in several processes, stopped and gone on with at any moment.

A file is written under a hidden name and renamed when it is whole; then the journal names it. What
the journal does not name, or what has another length than it says, is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from pathlib import Path
from typing import Any

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import digest, layout
from protoseg.datasets.prepare import journal
from protoseg.datasets.prepare.steps import Plan, Step
from protoseg.errors import DataError, ProtosegError
from protoseg.files import write_bytes, write_json

MANIFEST = "prepared.json"
LOCK = ".prepare.lock"
PART = ".prepare-part"

Progress = Callable[[int, int], None]


def apart(source: Path, target: Path) -> None:
    """Refuse to prepare a folder in place, or one inside the other.

    Raises:
        DataError: they are one folder, or one lies in the other.
    """
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise DataError(
            f"{source}: is, holds, or lies in the folder to be made, {target}. The published files "
            "are never changed in place: name another place with --data, or move them."
        )


def prepare(
    plan: Plan, dataset: DatasetSpec, target: Path, *, jobs: int = 1, progress: Progress | None
) -> dict[str, Any]:
    """Make what is not there yet; returns the manifest, which is written last.

    Args:
        plan: what to make from what.
        dataset: names the splits whose digest the manifest gets.
        target: folder of the data set.
        jobs: processes.
        progress: called with (files there, files in all).

    Raises:
        DataError: files of another origin in the target, or sources that can not be read; these
            are named when everything else is done.
        ProtosegError: another process is preparing this folder, or it can not be written.
    """
    apart(plan.source, target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            return _prepare(plan, dataset, target, jobs, progress or (lambda done, total: None))
    except OSError as error:
        raise ProtosegError(
            f"{error.filename or target}: {error.strerror or error}. What is made so far is kept: "
            "put this right and call again."
        ) from error


def _prepare(
    plan: Plan, dataset: DatasetSpec, target: Path, jobs: int, progress: Progress
) -> dict[str, Any]:
    _refuse_strangers(plan, target)
    known = journal.read(target)
    entries, left = {}, []
    for step in plan.steps:
        entry = known.get(step.target)
        if entry is not None and journal.stands(entry, target, step.sources[0]):
            entries[step.target] = entry
        else:
            left.append(step)
    before = len(entries)
    progress(before, len(plan.steps))
    problems = []
    with journal.Journal(target) as lines:
        for entry in _carried_out(left, plan.source, target, jobs):
            if "problem" in entry:
                problems.append(entry["problem"])
                continue
            lines.write(entry)
            entries[entry["target"]] = entry
            progress(len(entries), len(plan.steps))
    layout.refuse(problems)
    for name, to in plan.folder_links.items():
        if not _within((target / name).parent, target):
            raise DataError(_leads_out((target / name).parent, target))
        _link_folder(target / name, to)
    ordered = [entries[name] for name in sorted(entries)]
    details = plan.finish(target, ordered) if plan.finish else {}
    write_bytes(target / journal.NAME, journal.content(ordered))
    manifest = {
        "data_set": dataset.name,
        "version": journal.VERSION,
        "source": str(plan.source.resolve()),
        "source_digest": _source_digest(ordered),
        "files": dict(Counter(entry["how"] for entry in ordered)),
        "images": _counts(target, dataset),
        "digest": digest.folder_digest(target, dataset),
        "details": details,
    }
    write_json(target / MANIFEST, manifest)
    return {**manifest, "already_there": before}


def _carried_out(
    steps: list[Step], source: Path, target: Path, jobs: int
) -> Iterator[dict[str, Any]]:
    """An entry for each step, in order."""
    work = partial(_carry_out, source=source, target=target)
    if jobs == 1 or len(steps) < 2 * jobs:
        yield from map(work, steps)
        return
    # Started afresh: a forked process would inherit the progress display's threads half alive.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _end_with, (os.getpid(),)) as pool:
        try:
            yield from pool.map(work, steps, chunksize=8)
        except BrokenProcessPool as error:
            raise ProtosegError(
                f"{target}: a process of the preparation was killed, perhaps for want of memory. "
                "What is made so far is kept: call again, with fewer --jobs."
            ) from error


def _end_with(parent: int) -> None:
    """Let this process end when its parent does: a killed one tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _carry_out(step: Step, source: Path, target: Path) -> dict[str, Any]:
    path = target / step.target
    try:
        made = step.make(step.sources) if step.make else None
        content = made.content if made else None
        if content is None and _is_there(path, step.sources[0]):
            how, sha256 = "linked", None
        elif not _within(path.parent, target):
            raise DataError(_leads_out(path.parent, target))
        elif made is None or content is None:
            how, sha256 = _link(step.sources[0], path), None
        else:
            how, sha256 = "made", _sha256(step.sources)
            _write(path, content)
    except DataError as error:
        return {"problem": str(error)}
    return {
        "target": step.target,
        "version": journal.VERSION,
        "how": how,
        "bytes": path.stat().st_size,
        "source": step.sources[0].relative_to(source).as_posix(),
        "source_bytes": step.sources[0].stat().st_size,
        **({"source_sha256": sha256} if sha256 else {}),
        **({"facts": made.facts} if made and made.facts else {}),
    }


def _is_there(path: Path, source: Path) -> bool:
    """Whether a target is its source already, by a link of the user's own."""
    try:
        return path.samefile(source)
    except OSError:
        return False


@cache
def _within(folder: Path, target: Path) -> bool:
    """Whether what is written into a folder lies in the prepared data set, not behind a link."""
    return folder.resolve().is_relative_to(target.resolve())


def _leads_out(folder: Path, target: Path) -> str:
    return (
        f"{folder}: a link leads out of {target}, and nothing is written through it. Link only "
        "folders of images, or remove the link and call again."
    )


def _sha256(paths: tuple[Path, ...]) -> str:
    """Of the contents of all sources, one after the other."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def _write(path: Path, content: bytes) -> None:
    # Not flushed to the disk one by one: what a power cut leaves short, the journal's lengths tell.
    part = _part(path)
    part.write_bytes(content)
    os.replace(part, path)


def _link(source: Path, path: Path) -> str:
    """A hard link, which takes no space; a copy where the file system has or allows none."""
    part = _part(path)
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
        how = "linked"
    except FileNotFoundError as error:
        raise DataError(f"{source}: this file is missing. Complete the copy.") from error
    except OSError:
        if not os.access(source, os.R_OK):  # the others do not wait for it
            raise DataError(f"{source}: can not be read. Change its permissions.") from None
        shutil.copyfile(source, part)
        how = "copied"
    os.replace(part, path)
    # Renaming a link over another one to the same file does nothing, and leaves both.
    part.unlink(missing_ok=True)
    return how


def _part(path: Path) -> Path:
    """Hidden, so that no reader of the data set takes it for a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{PART}-{os.getpid()}-{path.name}")


def _link_folder(path: Path, to: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(to, target_is_directory=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    with open(target / LOCK, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProtosegError(
                f"{target}: another process is preparing this folder. Wait for it, or stop it."
            ) from None
        yield


def _refuse_strangers(plan: Plan, target: Path) -> None:
    """Refuse files that the plan does not make; remove what a killed preparation left half done."""
    own = {step.target for step in plan.steps}
    strangers = []
    for folder in sorted({name.partition("/")[0] for name in own}):
        for parent, _, files in os.walk(target / folder):  # links to folders are not followed
            for name in files:
                path = Path(parent, name)
                if name.startswith(PART):
                    path.unlink(missing_ok=True)
                elif not name.startswith(".") and path.relative_to(target).as_posix() not in own:
                    strangers.append(path)
    if strangers:
        raise DataError(
            f"{min(strangers)}: {len(strangers)} files in {target} do not come from "
            f"{plan.source}, this one first. Prepare into an empty folder (--data), or move them."
        )


def _source_digest(entries: list[dict[str, Any]]) -> str:
    """SHA-256 over the sources of what was made: their names and digests."""
    total = hashlib.sha256()
    for entry in entries:
        if "source_sha256" in entry:
            total.update(f"{entry['source']} {entry['source_sha256']}\n".encode())
    return total.hexdigest()


def _counts(target: Path, dataset: DatasetSpec) -> dict[str, int]:
    return {
        split: len(layout.pairs(target, dataset, split)) for split in layout.splits(target, dataset)
    }
