"""The digest of a data set: SHA-256 of its files, which a spec can pin."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout, shapes
from protoseg.datasets.image_labels import find_label_lists
from protoseg.datasets.pairing.split_lists import find_split_files
from protoseg.errors import DataError, ProtosegError
from protoseg.files import read_json, write_bytes

UNPINNED = "unpinned"
"""The value of ``dataset.digest`` that accepts any content."""

MIN_CACHED_AGE_NS = 2_000_000_000
"""Younger files are not cached: they could change again within the resolution of mtime."""


def verify_digest(root: Path, dataset: DatasetSpec) -> str:
    """Compare the data on disk with ``dataset.digest``; return the digest of the data.

    The first call reads every file; later calls only compare sizes and modification times.

    Raises:
        DataError: the digests differ, or files are missing.
    """
    digest = folder_digest(root, dataset)
    if is_mismatch(dataset, digest):
        raise DataError(mismatch_message(root, dataset, digest))
    return digest


def folder_digest(
    root: Path, dataset: DatasetSpec, *, pair_files: Mapping[str, list[Any]] | None = None
) -> str:
    """SHA-256 of the content of a data set, 64 hex digits.

    It covers one line ``[relative posix path, size, SHA-256 of the content]``, sorted by path, for
    each image and annotation of all splits and for each list of image-level labels or of a split.
    Other files are ignored. For generated data it covers generator, version and arguments instead,
    because the bytes of a PNG depend on the version of zlib.

    Args:
        root: the folder of the data set.
        dataset: its spec.
        pair_files: relative posix path -> entry of `read_hashed`, for the images and annotations
            of all splits, if they were just read; None to read them.

    Raises:
        DataError: files or folders are missing, or a file cannot be read.
    """
    if dataset.generator:
        return _generated_digest(root, dataset)
    lists = [*find_label_lists(root, dataset), *find_split_files(root, dataset)]
    if pair_files is None:
        return _hash_files(root, [*_find_pair_files(root, dataset), *lists], {})
    return _hash_files(root, lists, pair_files)


def read_hashed(path: Path) -> tuple[bytes, list[Any]]:
    """The content of a file, and ``[size in bytes, mtime in ns, SHA-256]``.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        status = path.stat()
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    digest = hashlib.sha256(content).hexdigest()
    return content, [status.st_size, status.st_mtime_ns, digest]


def _hash_file(path: Path, cached: list[Any] | None) -> list[Any]:
    """``[size in bytes, mtime in ns, SHA-256]`` of a file; ``cached`` if it has not changed."""
    try:
        status = path.stat()
        if cached is not None and cached[:2] == [status.st_size, status.st_mtime_ns]:
            return cached
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return [status.st_size, status.st_mtime_ns, content]


def _hash_files(root: Path, files: Iterable[Path], known: Mapping[str, list[Any]]) -> str:
    """`folder_digest` of these files below ``root``, and of those whose entries are known."""
    cached = _read_cache(root)
    names = [(path.relative_to(root).as_posix(), path) for path in set(files)]

    def hash_named_file(name: str, path: Path) -> tuple[str, list[Any]]:
        return name, _hash_file(path, cached.get(name))

    # hashlib releases the GIL, so threads use several cores and hide the latency of a slow disk.
    with ThreadPoolExecutor(count_reader_threads()) as pool:
        entries = {**known, **dict(pool.map(lambda item: hash_named_file(*item), names))}
    _write_cache(root, cached, entries)
    total = hashlib.sha256()
    for name in sorted(entries):
        size, _, content = entries[name]
        total.update(json.dumps([name, size, content]).encode() + b"\n")
    return total.hexdigest()


def is_mismatch(dataset: DatasetSpec, digest: str) -> bool:
    """Whether the spec pins another digest than ``digest``."""
    return dataset.digest not in (UNPINNED, digest)


def mismatch_message(root: Path, dataset: DatasetSpec, digest: str) -> str:
    """The error message for data whose digest differs from the spec's."""
    return (
        f"{root}: this copy of '{dataset.name}' is not the one of the spec: its digest is "
        f"{digest}, expected {dataset.digest}. Get the expected copy, or accept this one, as "
        f"another data set, with dataset.digest={digest} on the command line."
    )


def count_reader_threads() -> int:
    """The number of threads for reading files."""
    return min(8, os.cpu_count() or 1)


def _find_pair_files(root: Path, dataset: DatasetSpec) -> list[Path]:
    return [
        path
        for split in layout.find_splits(root, dataset)
        for pair in layout.find_pairs(root, dataset, split)
        for path in pair
    ]


def _generated_digest(root: Path, dataset: DatasetSpec) -> str:
    marker = shapes.read_marker(root)
    if marker is None:
        raise DataError(
            f"{root}: this folder of generated data is incomplete: '{shapes.MARKER}' is missing. "
            "Delete the folder; it is generated again on the next use."
        )
    arguments: dict[str, int] = marker["arguments"]
    for split in shapes.SPLITS:
        count = len(layout.find_pairs(root, dataset, split))
        if count != arguments[split]:
            raise DataError(
                f"{root}: split '{split}' has {count} images, {arguments[split]} were generated. "
                "Delete the folder; it is generated again on the next use."
            )
    return shapes.marker_digest(marker)


def _cache_file(root: Path) -> Path:
    folder = os.environ.get("PROTOSEG_CACHE") or Path.home() / ".cache" / "protoseg"
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return Path(folder) / "digests" / f"{name}.json"


def _read_cache(root: Path) -> dict[str, list[Any]]:
    """Relative path -> ``[size, mtime_ns, SHA-256]``; invalid entries are left out."""
    # The cache is optional, so its errors are ignored.
    with contextlib.suppress(OSError, RuntimeError):
        cache = read_json(_cache_file(root))
        if isinstance(cache, dict):
            return {name: entry for name, entry in cache.items() if _is_valid_entry(entry)}
    return {}


def _is_valid_entry(entry: Any) -> bool:
    match entry:
        case [int(), int(), str(content)]:
            return len(content) == 64
    return False


def _write_cache(root: Path, cached: dict[str, Any], entries: dict[str, list[Any]]) -> None:
    now = time.time_ns()
    old_enough = {
        name: entry for name, entry in entries.items() if now - entry[1] > MIN_CACHED_AGE_NS
    }
    merged = cached | old_enough
    if merged == cached:
        return
    with contextlib.suppress(OSError, RuntimeError, ProtosegError):
        file = _cache_file(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Without indentation: json's C encoder needs a fifth of the memory.
        write_bytes(file, json.dumps(merged).encode())
