"""One thread: the tensors here are small, and threads that wait for busy cores cost seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope
from threads import one_thread  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def _the_same_draws_each_time() -> Iterator[None]:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield
