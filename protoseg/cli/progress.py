"""A progress bar for verbs that read or write many files."""

from __future__ import annotations

import sys

from rich.progress import MofNCompleteColumn, Progress

from protoseg.cli.context import Context


class Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, context: Context, name: str) -> None:
        self.bar = Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            console=context.errors,
            transient=True,
            disable=context.json or not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(name, total=None)

    def name(self, name: str) -> None:
        """What is under way now."""
        self.bar.update(self.task, description=name)

    def update(self, done: int, total: int) -> None:
        """How far it is."""
        self.bar.update(self.task, completed=done, total=total)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
