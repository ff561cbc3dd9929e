"""Fixtures of the training tests: one thread, mmseg's registries, the small data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import ForkServer, fork_server  # noqa: F401  a fixture
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from threads import one_thread  # noqa: F401  a fixture

from protoseg.datasets.layout import find_root
from training.small import REPOSITORY, WORKER_MODULES, small_spec


@pytest.fixture(autouse=True)
def _select_mmseg() -> Iterator[None]:
    # mmengine logs the initialisation of every parameter.
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(fork_server: ForkServer) -> None:  # noqa: F811
    """Start the imports of the fork server early; they take seconds."""
    fork_server.prepare(WORKER_MODULES)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the small built-in data set."""
    folder = tmp_path_factory.mktemp("data")
    find_root(small_spec().dataset, folder)
    return folder


@pytest.fixture(scope="session")
def shapes_root(data: Path) -> Path:
    """The folder of the small data set."""
    return find_root(small_spec().dataset, data)


@pytest.fixture(scope="session")
def test_weights() -> Path:
    """The folder of real weights, which are not part of the repository."""
    test_data = os.environ.get("PROTOSEG_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
    folder = Path(test_data) / "weights"
    if not folder.is_dir():
        pytest.skip(f"needs weights in {folder}; set PROTOSEG_TEST_DATA")
    return folder
