"""Fixtures: one torch thread, a fixed seed and the scope of mmseg.

The tensors are small, and threads that wait for busy cores would take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope
from threads import one_thread  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield
