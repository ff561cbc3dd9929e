"""One thread: the tensors here are small, and threads that wait for busy cores cost seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _the_same_draws_each_time() -> Iterator[None]:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield
