"""The log of an attempt: the output of its worker, also when the disk is full."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from protoseg import files


def print_log(text: str) -> None:
    """Print to the log; on a full disk, discard the buffered output.

    A full disk must neither hide the reason of the end nor change the exit status.
    """
    try:
        # Names of files need not be UTF-8.
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.close(descriptor)


def redirect_output(log: Path) -> None:
    """Redirect the output of this process and its children to the log of the attempt."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise files.storage_error(error, log) from error
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
