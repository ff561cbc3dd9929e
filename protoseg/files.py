"""Atomic writing of files, locks, JSON and digests.

A file is whole or absent, even if its writer is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from protoseg.errors import ProtosegError


def write_with(
    path: Path, write: Callable[[BinaryIO], Any], check_ownership: Callable[[], None] | None = None
) -> None:
    """Atomically write ``path``: fill a temporary file, flush it to disk, rename it.

    Args:
        write: fills the open temporary file.
        check_ownership: called before the rename; raises if the file must not be replaced any
            more. Writing can take long, and a file system can hang.

    Raises:
        StorageError: no space left, no permission, or a read-only file system; ``path`` is
            unchanged.
    """
    _write_and_move(path, write, os.replace, check_ownership)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomically write ``data`` to ``path``."""
    write_with(path, lambda file: file.write(data))


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Atomically write ``value`` as indented JSON.

    Args:
        durable: flush to disk, which takes milliseconds to seconds on a shared disk. False: a power
            cut may lose the file.

    Raises:
        ValueError: ``value`` contains NaN or infinity.
        StorageError: as `write_with`.
    """
    data = _json_bytes(value)
    _write_and_move(path, lambda file: file.write(data), os.replace, durable=durable)


def create_json(path: Path, value: Any) -> bool:
    """Write ``value`` to ``path`` unless the file exists.

    Readers never see a half-written file. Of several writers exactly one gets True.

    Returns:
        Whether the file was written.

    Raises:
        StorageError: as `write_with`.
    """
    data = _json_bytes(value)
    try:
        _write_and_move(path, lambda file: file.write(data), os.link)
    except FileExistsError:
        return False
    return True


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # A lone surrogate, from a file name that is not UTF-8, becomes its JSON escape.
    return (text + "\n").encode("utf-8", "backslashreplace")


def _write_and_move(
    path: Path,
    write: Callable[[BinaryIO], Any],
    move: Callable[[Path, Path], None],
    check_ownership: Callable[[], None] | None = None,
    durable: bool = True,
) -> None:
    """Fill a temporary file, flush it to disk if ``durable``, and ``move`` it to ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", opener=_opener) as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if check_ownership is not None:
            check_ownership()
        move(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        # On a read-only disk, removing a missing file fails too and would hide the first error.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _opener(path: str, flags: int) -> int:
    """Open a file that others cannot write, whatever the umask: workers trust what they read."""
    return os.open(path, flags, 0o664)


def open_lock(path: Path) -> BinaryIO:
    """Open a file to lock, for writing: network file systems need that for an exclusive lock."""
    return open(path, "ab", opener=_opener)


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock of a file while inside; the kernel releases it when its process ends.

    The code inside runs without the lock in two cases: another process keeps it for longer than
    ``seconds`` (it may be stopped), or the file cannot be locked (no permission, no lock service).

    Args:
        seconds: to wait for the lock.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            _lock(stack.enter_context(open_lock(path)), seconds)
        yield


def _lock(file: BinaryIO, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


def read_json(path: Path) -> Any:
    """Read the value in a JSON file; None if the file is missing or torn."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def canonical_json(value: Any) -> bytes:
    """Encode plain data as canonical JSON: sorted keys, no white space, ASCII.

    Equal values give equal bytes; the digests of specs and records are taken over them.

    Raises:
        ValueError: ``value`` contains NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def last_line(text: str) -> str:
    """Return the last line of a text that is not blank, at most its last 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else ""


def read_last_line(path: Path) -> str:
    """Return the last line of a log, as `last_line`; empty if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            return last_line(file.read().decode(errors="replace"))
    except OSError:
        return ""


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, not writable by others, and return it.

    Raises:
        StorageError: no permission, or no space left.
    """
    try:
        # One by one: mkdir(parents=True) gives the mode to the last folder only.
        for each in (*reversed(path.parents), path):
            if not each.is_dir():
                each.mkdir(mode=0o775, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    return path


def storage_error(error: OSError, path: Path) -> ProtosegError:
    """Make the error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "no space left on the disk (or the quota is used up)"
        todo = "free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "no permission to write here"
        todo = "change the permissions"
    else:
        what = error.strerror or str(error)
        todo = "fix this"
    return StorageError(
        f"{path}: {what}. Nothing finished was lost; {todo}, or choose another folder "
        "(--runs, --results, --data, --weights, --out, --into)."
    )


class StorageError(ProtosegError):
    """A file or folder that cannot be written."""


def _sync_folder(folder: Path) -> None:
    # The rename is an entry of the folder: without this, a power cut can undo it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
