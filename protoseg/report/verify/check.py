"""Results of a verification: one `Check` per group, with its problems and notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One error in a file of results, with its position."""

    file: str
    """Path relative to the folder of results."""
    message: str
    row: str = ""
    column: str = ""
    committed: str | None = None
    """Content of the file; None if it has none at this position."""
    rebuilt: str | None = None
    """Content that follows from the records; None if there is none."""

    @property
    def words(self) -> str:
        """The problem as one sentence that begins with the file."""
        position = f"{self.file}: "
        if self.row or self.column:
            parts = (("row", self.row), ("column", self.column))
            position += ", ".join(f"{what} '{name}'" for what, name in parts if name) + ": "
        return position + self.message


@dataclass
class Check:
    """A group of checks of the same type."""

    group: str
    what: str
    """Short description of what is checked."""
    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Information that is not an error."""

    def problem(self, file: str, message: str, **details: Any) -> None:
        """Add a problem; ``details`` are further fields of `Problem`."""
        self.problems.append(Problem(file, message, **details))

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain data for JSON."""
        return asdict(self)
