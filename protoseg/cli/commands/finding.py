"""What ``doctor`` finds: one thing looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    state: CheckState
    """``absent`` only closes some doors; ``broken`` stops protoseg from working."""
    found: str
    todo: str = ""
