"""``python -m protoseg.loggers.process NAME LOG``: the process of one logger of one attempt.

It reads one JSON object a line from standard input, each a call of a method of the logger, until
the input ends. Its output goes to the file LOG. If the logger raises, one line goes to the worker's
log, which is its standard output at the start, and the process ends.

Exit status: 0 the logger has finished, 3 it failed and this is in the worker's log.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg.loggers.interface import Logger, RunInfo
from protoseg.loggers.registry import describe_missing, make_logger

REPORTED = 3
LOST_SECONDS = 30
"""After which a logger of a killed worker is killed too."""
NICENESS = 10
"""The training has the CPU first."""


def main(arguments: list[str] | None = None) -> int:
    """Make the logger and call its methods; returns the exit status."""
    name, log = sys.argv[1:] if arguments is None else arguments
    # The worker decides when the logger ends; a signal for the whole job comes here too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    requests, report = os.dup(0), os.dup(1)
    for descriptor in (requests, report):
        os.set_inheritable(descriptor, False)
    _redirect_output(Path(log))
    try:
        with os.fdopen(requests, encoding="utf-8") as lines:
            serve_logger(make_logger(name), lines)
    except BaseException as error:
        traceback.print_exc()
        text = f"{_now()}  logger {name}: off: {_describe_error(name, error)}\n"
        os.write(report, text.encode("utf-8", "backslashreplace"))
        return REPORTED
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        if not os.path.getsize(log):
            os.unlink(log)
    return 0


def serve_logger(logger: Logger, lines: Iterable[str]) -> None:
    """Call the methods of a logger.

    Args:
        logger: the logger.
        lines: JSON objects with ``call`` and the arguments of this method. Without a call of
            ``finish`` at the end, the worker was killed.
    """
    for line in lines:
        message: dict[str, Any] = json.loads(line)
        call = message.pop("call")
        if call == "start":
            logger.start(RunInfo(**{**message, "folder": Path(message["folder"])}))
        elif call == "log":
            logger.log(message["iteration"], message["values"])
        elif call == "log_metrics":
            logger.log_metrics(message["iteration"], message["metrics"])
        else:
            logger.finish(message["reason"])
            return
    # The worker is gone, so nothing else ends a logger that hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LOST_SECONDS)
    logger.finish("lost")


def _redirect_output(log: Path) -> None:
    """Redirect input and output, so that nothing of the logger goes to the worker's log."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        target = null
    os.dup2(target, 1)
    os.dup2(target, 2)


def _describe_error(name: str, error: BaseException) -> str:
    """One line about an exception of a logger."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return describe_missing(name, error.name.partition(".")[0]).partition(": ")[2]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    # Threads of the logger that do not end must not keep the process.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
