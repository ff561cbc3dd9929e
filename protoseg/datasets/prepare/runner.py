"""Run a preparation in several processes, resumable after an interruption at any moment.

Each file is written under a hidden name, renamed when it is complete, and then recorded in the
journal. A file that is not in the journal, or has another size than recorded, is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import digest, layout
from protoseg.datasets.prepare import journal
from protoseg.datasets.prepare.output_files import (
    PART,
    hash_files,
    is_inside,
    is_same_file,
    link_file,
    link_folder,
    outside_message,
    write_file,
)
from protoseg.datasets.prepare.steps import Preparation, Step
from protoseg.datasets.worker_pool import exit_with_parent
from protoseg.errors import DataError, ProtosegError
from protoseg.files import write_bytes, write_json

MANIFEST = "prepared.json"
LOCK = ".prepare.lock"

Progress = Callable[[int, int], None]


def raise_if_nested(source: Path, target: Path) -> None:
    """Raise an error if source and target are one folder or one is inside the other.

    Raises:
        DataError: the folders are not separate.
    """
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise DataError(
            f"{source}: is, contains, or is inside the folder to be prepared, {target}. The "
            "published files are never changed in place. Name another data folder with --data."
        )


def prepare_data_set(
    plan: Preparation,
    dataset: DatasetSpec,
    target: Path,
    *,
    jobs: int = 1,
    progress: Progress | None,
) -> dict[str, Any]:
    """Make all files that do not exist yet; return the manifest, which is written last.

    Args:
        plan: the steps, and the published folder.
        dataset: the spec; its splits are counted and covered by the digest in the manifest.
        target: the folder of the data set.
        jobs: number of processes.
        progress: called with (existing files, all files).

    Raises:
        DataError: the target contains other files, or sources cannot be read. Unreadable sources
            are reported after all other files are made.
        ProtosegError: another process is preparing this folder, or it cannot be written.
    """
    raise_if_nested(plan.source, target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _lock_folder(target):
            return _prepare(plan, dataset, target, jobs, progress or (lambda done, total: None))
    except OSError as error:
        raise ProtosegError(
            f"{error.filename or target}: {error.strerror or error}. Finished files are kept: "
            "correct the cause and run the command again."
        ) from error


def _prepare(
    plan: Preparation, dataset: DatasetSpec, target: Path, jobs: int, progress: Progress
) -> dict[str, Any]:
    _clean_target(plan, target)
    recorded = journal.read_entries(target)
    entries, open_steps = {}, []
    for step in plan.steps:
        entry = recorded.get(step.target)
        if entry is not None and journal.is_current(entry, target, step.sources[0]):
            entries[step.target] = entry
        else:
            open_steps.append(step)
    already_there = len(entries)
    progress(already_there, len(plan.steps))
    problems = []
    with journal.Journal(target) as journal_file:
        for entry in _run_steps(open_steps, plan.source, target, jobs):
            if "problem" in entry:
                problems.append(entry["problem"])
                continue
            journal_file.append_entry(entry)
            entries[entry["target"]] = entry
            progress(len(entries), len(plan.steps))
    layout.raise_problems(problems)
    for name, linked_folder in plan.folder_links.items():
        if not is_inside((target / name).parent, target):
            raise DataError(outside_message((target / name).parent, target))
        link_folder(target / name, linked_folder)
    ordered = [entries[name] for name in sorted(entries)]
    details = plan.finish(target, ordered) if plan.finish else {}
    write_bytes(target / journal.NAME, journal.encode_entries(ordered))
    manifest = {
        "data_set": dataset.name,
        "version": journal.VERSION,
        "source": str(plan.source.resolve()),
        "source_digest": _source_digest(ordered),
        "files": dict(Counter(entry["how"] for entry in ordered)),
        "images": _count_images(target, dataset),
        "digest": digest.folder_digest(target, dataset),
        "details": details,
    }
    write_json(target / MANIFEST, manifest)
    return {**manifest, "already_there": already_there}


def _run_steps(
    steps: list[Step], source: Path, target: Path, jobs: int
) -> Iterator[dict[str, Any]]:
    """Run the steps; yield one journal entry for each, in order."""
    run = partial(_run_step, source=source, target=target)
    if jobs == 1 or len(steps) < 2 * jobs:
        yield from map(run, steps)
        return
    # Not forked: a forked process would inherit the state of the progress display's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, exit_with_parent, (os.getpid(),)) as pool:
        try:
            yield from pool.map(run, steps, chunksize=8)
        except BrokenProcessPool as error:
            raise ProtosegError(
                f"{target}: a process of the preparation was killed, perhaps for lack of memory. "
                "Finished files are kept: run the command again, with fewer --jobs."
            ) from error


def _run_step(step: Step, source: Path, target: Path) -> dict[str, Any]:
    """Make one file; return its journal entry, or ``{"problem": message}``."""
    path = target / step.target
    try:
        converted = step.convert(step.sources) if step.convert else None
        content = converted.content if converted else None
        if content is None and is_same_file(path, step.sources[0]):
            how, sha256 = "linked", None
        elif not is_inside(path.parent, target):
            raise DataError(outside_message(path.parent, target))
        elif content is None:
            how, sha256 = link_file(step.sources[0], path), None
        else:
            how, sha256 = "made", hash_files(step.sources)
            write_file(path, content)
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
        **({"facts": converted.facts} if converted and converted.facts else {}),
    }


@contextlib.contextmanager
def _lock_folder(target: Path) -> Iterator[None]:
    with open(target / LOCK, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProtosegError(
                f"{target}: another process is preparing this folder. Wait for it, or stop it."
            ) from None
        yield


def _clean_target(plan: Preparation, target: Path) -> None:
    """Delete incomplete files of a killed preparation; raise an error for files of other origin."""
    targets = {step.target for step in plan.steps}
    foreign = []
    for folder in sorted({name.partition("/")[0] for name in targets}):
        for parent, _, files in os.walk(target / folder):  # does not follow links to folders
            for name in files:
                path = Path(parent, name)
                if name.startswith(PART):
                    path.unlink(missing_ok=True)
                elif name[0] != "." and path.relative_to(target).as_posix() not in targets:
                    foreign.append(path)
    if foreign:
        raise DataError(
            f"{min(foreign)}: the first of {len(foreign)} files in {target} that do not come from "
            f"{plan.source}. Prepare into an empty folder (--data), or move these files."
        )


def _source_digest(entries: list[dict[str, Any]]) -> str:
    """SHA-256 of the names and digests of the sources of all converted files."""
    total = hashlib.sha256()
    for entry in entries:
        if "source_sha256" in entry:
            line = f"{entry['source']} {entry['source_sha256']}\n"
            total.update(line.encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _count_images(target: Path, dataset: DatasetSpec) -> dict[str, int]:
    splits = layout.find_splits(target, dataset)
    return {split: len(layout.find_pairs(target, dataset, split)) for split in splits}
