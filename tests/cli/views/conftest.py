"""Fixtures of the tests of terminal views."""

from __future__ import annotations

from report.conftest import lab

__all__ = ["lab"]
