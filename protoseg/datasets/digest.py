"""The digest of a data set: what a spec pins, so that a number belongs to known pixels."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout, shapes
from protoseg.datasets.image_labels import label_lists
from protoseg.errors import DataError, ProtosegError
from protoseg.files import read_json, write_json

UNPINNED = "unpinned"
"""The value of ``dataset.digest`` that accepts any content."""

SETTLED_NS = 2_000_000_000
"""Age below which a file is not remembered: it could change again within one tick of its clock."""


def verify(root: Path, dataset: DatasetSpec) -> str:
    """Compare the data on disk with ``dataset.digest``; returns the digest found.

    The first call reads every file, later ones only look at sizes and times.

    Raises:
        DataError: the digests differ, or files are missing.
    """
    found = folder_digest(root, dataset)
    if differs(dataset, found):
        raise DataError(mismatch(root, dataset, found))
    return found


def folder_digest(root: Path, dataset: DatasetSpec) -> str:
    """SHA-256 that stands for the content of a data set, 64 hex digits.

    It covers one line ``[relative posix path, size, SHA-256 of the content]`` for each image and
    annotation of the data set's splits, and each list of image-level labels where it names some,
    sorted by path. Files of other endings do not count. For
    data made by the program it covers generator, version and arguments instead, because the bytes
    of a PNG depend on the version of zlib.

    Raises:
        DataError: files or folders are missing.
    """
    if dataset.generator:
        return _generated_digest(root, dataset)
    return digest_of_files(root, _files(root, dataset))


def digest_of_files(root: Path, files: Iterable[Path]) -> str:
    """`folder_digest` of the given files below ``root``.

    Raises:
        DataError: a file can not be read.
    """
    known = _read_cache(root)
    names = sorted((path.relative_to(root).as_posix(), path) for path in set(files))

    def entry(name: str, path: Path) -> tuple[str, list[Any]]:
        try:
            status = path.stat()
            cached = known.get(name)
            if cached is not None and cached[:2] == [status.st_size, status.st_mtime_ns]:
                return name, cached
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: can not be read ({error.strerror}).") from error
        return name, [status.st_size, status.st_mtime_ns, content]

    # hashlib lets go of the interpreter lock: threads keep several cores, or a slow disk, busy.
    with ThreadPoolExecutor(threads()) as pool:
        entries = dict(pool.map(lambda item: entry(*item), names))
    _write_cache(root, known, entries)
    total = hashlib.sha256()
    for name, (size, _, content) in entries.items():
        total.update(json.dumps([name, size, content]).encode() + b"\n")
    return total.hexdigest()


def differs(dataset: DatasetSpec, found: str) -> bool:
    """Whether the spec pins another digest than ``found``."""
    return dataset.digest not in (UNPINNED, found)


def mismatch(root: Path, dataset: DatasetSpec, found: str) -> str:
    """The sentence for a digest that is not the one the spec names."""
    return (
        f"{root}: this is not the copy of '{dataset.name}' that the spec names: its digest is "
        f"{found}, expected {dataset.digest}. Get the expected copy, or accept this one as "
        f"another identity with dataset.digest={found} on the command line."
    )


def threads() -> int:
    """How many threads to read files with."""
    return min(8, os.cpu_count() or 1)


def _files(root: Path, dataset: DatasetSpec) -> list[Path]:
    paths = [
        path
        for split in layout.splits(root, dataset)
        for pair in layout.pairs(root, dataset, split)
        for path in pair
    ]
    return [*paths, *label_lists(root, dataset)]


def _generated_digest(root: Path, dataset: DatasetSpec) -> str:
    marker = shapes.read_marker(root)
    if marker is None:
        raise DataError(
            f"{root}: not a complete folder of generated data, '{shapes.MARKER}' is missing. "
            "Delete the folder; it is made again on the next use."
        )
    arguments: dict[str, int] = marker["arguments"]
    for split in shapes.SPLITS:
        found = len(layout.pairs(root, dataset, split))
        if found != arguments[split]:
            raise DataError(
                f"{root}: split '{split}' has {found} images, {arguments[split]} were generated. "
                "Delete the folder; it is made again on the next use."
            )
    return shapes.marker_digest(marker)


def _cache_file(root: Path) -> Path:
    folder = os.environ.get("PROTOSEG_CACHE") or Path.home() / ".cache" / "protoseg"
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return Path(folder) / "digests" / f"{place}.json"


def _read_cache(root: Path) -> dict[str, list[Any]]:
    """Known ``[size, mtime_ns, SHA-256]`` by relative path; whatever is unfit is left out."""
    # The cache may always be lost: nothing that is wrong with it is worth a message.
    with contextlib.suppress(OSError, RuntimeError):
        cache = read_json(_cache_file(root))
        if isinstance(cache, dict):
            return {name: entry for name, entry in cache.items() if _fits(entry)}
    return {}


def _fits(entry: Any) -> bool:
    match entry:
        case [int(), int(), str(content)]:
            return len(content) == 64
    return False


def _write_cache(root: Path, known: dict[str, Any], entries: dict[str, list[Any]]) -> None:
    now = time.time_ns()
    settled = {name: entry for name, entry in entries.items() if now - entry[1] > SETTLED_NS}
    merged = known | settled
    if merged == known:
        return
    with contextlib.suppress(OSError, RuntimeError, ProtosegError):
        file = _cache_file(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, merged)
