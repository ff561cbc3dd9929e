"""What a verification found: one `Check` a group of things, with its problems and remarks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    """Below the folder of results."""
    message: str
    row: str = ""
    column: str = ""
    committed: str | None = None
    """What the file says; None where it says nothing."""
    rebuilt: str | None = None
    """What the records give."""

    @property
    def words(self) -> str:
        """One sentence."""
        place = f"{self.file}: "
        if self.row or self.column:
            parts = (("row", self.row), ("column", self.column))
            place += ", ".join(f"{what} '{name}'" for what, name in parts if name) + ": "
        return place + self.message


@dataclass
class Check:
    """A group of checks of one kind."""

    group: str
    what: str
    """What is looked at, a few words."""
    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and not wrong."""

    def problem(self, file: str, message: str, **place: Any) -> None:
        """Add a problem."""
        self.problems.append(Problem(file, message, **place))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
