"""Writing files that are either whole or absent, whatever dies in between."""

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
    """Let ``write`` fill a file of its own name, flush it to disk, then rename it to ``path``.

    Args:
        confirm: called before the renaming, and raises where that is not wanted any more: writing
            can take long, and a file system can hang.

    Raises:
        ProtosegError: no space left, no permission, or a read-only file system; ``path`` is as it
            was before.
    """
    _place(path, write, os.replace, check_ownership)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomically write ``data`` to ``path``."""
    write_with(path, lambda file: file.write(data))


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Atomically write ``value`` as indented JSON; NaN is refused, for JSON has none.

    Args:
        durable: flush to disk. A file that may be lost in a power cut does without: flushing takes
            milliseconds to seconds, on a disk that others use too.
    """
    data = _json_bytes(value)
    _place(path, lambda file: file.write(data), os.replace, durable=durable)


def create_json(path: Path, value: Any) -> bool:
    """Write ``value`` to ``path`` unless the file exists already; say whether it was written.

    Readers never see a half-written file, and of several writers exactly one gets True.

    Raises:
        ProtosegError: as `write_with`.
    """
    data = _json_bytes(value)
    try:
        _place(path, lambda file: file.write(data), os.link)
    except FileExistsError:
        return False
    return True


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _place(
    path: Path,
    write: Callable[[BinaryIO], Any],
    move: Callable[[Path, Path], None],
    check_ownership: Callable[[], None] | None = None,
    durable: bool = True,
) -> None:
    """Fill a file of its own name, flush it to disk if ``durable``, and ``move`` it to ``path``."""
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
        # On a read-only disk even removing nothing is an error, which would hide the first one.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _opener(path: str, flags: int) -> int:
    """Whatever the umask: not all the world may write what a worker is going to read."""
    return os.open(path, flags, 0o664)


def open_lock(path: Path) -> BinaryIO:
    """A file to lock; open for writing, or network file systems give no exclusive lock."""
    return open(path, "ab", opener=_opener)


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock of a file, which the kernel drops with its process.

    Goes on without it where another process keeps it for longer (it may be stopped), and where the
    file can not be written or its file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            _lock(stack.enter_context(open_lock(path)), seconds)
        yield


def _lock(file: BinaryIO, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(0.02)


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where the file is missing or torn."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, not writable by all the world, and return it."""
    try:
        # One by one: mkdir gives the mode to the last of several alone.
        for each in (*reversed(path.parents), path):
            if not each.is_dir():
                each.mkdir(mode=0o775, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    return path


def storage_error(error: OSError, path: Path) -> ProtosegError:
    """The sentence for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "no space left on the disk (or the quota is used up)"
        todo = "free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "no permission to write here"
        todo = "change the permissions"
    else:
        what = error.strerror or str(error)
        todo = "put this right"
    return StorageError(
        f"{path}: {what}. Nothing finished was lost; {todo}, or choose another folder "
        "(--runs, --results, --data, --weights, --out)."
    )


class StorageError(ProtosegError):
    """A run folder that can not be written."""


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder; without this a power cut can undo it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems can not sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
