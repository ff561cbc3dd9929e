"""Fixtures of the tests of run folders and records."""

from __future__ import annotations

from report.conftest import lab

__all__ = ["lab"]
