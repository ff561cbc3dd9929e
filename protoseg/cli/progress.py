"""A progress bar for verbs that process many files."""

from __future__ import annotations

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress


class ProgressBar:
    """A progress bar that is removed at the end.

    Args:
        name: what is in progress.
        is_visible: False draws nothing.
    """

    def __init__(self, console: Console, name: str, *, is_visible: bool) -> None:
        self.progress = Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=not is_visible,
        )
        self.task = self.progress.add_task(name, total=None)

    def rename(self, name: str) -> None:
        """Change the name of what is in progress."""
        self.progress.update(self.task, description=name)

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        self.progress.update(self.task, completed=done, total=total)

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
