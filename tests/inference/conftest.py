"""Finished small runs, and calls of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.conftest import CommandLine, protoseg  # noqa: F401  a fixture
from forked import ForkServer, fork_server  # noqa: F401  a fixture
from threads import one_thread  # noqa: F401  a fixture
from training.small import WORKER_MODULES, make_folder, small_spec, work

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root
from protoseg.inference.trained_model import TrainedModel, load_run
from protoseg.runs.folder import RunFolder

SHORT = ("schedule.iterations=6",)
RUNS = {
    "prototype": ("method=paper", *SHORT, "method.num_prototypes=4"),
    # Windows that do not fit, on images of another size than that of the label maps.
    "slide": (
        *("method=parametric", "~method.momentum", "method.num_prototypes=1", *SHORT),
        *("evaluation.mode=slide", "evaluation.crop_size=[32,40]", "evaluation.stride=[20,24]"),
        "evaluation.scale=[72,72]",
    ),
}


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(fork_server: ForkServer) -> None:  # noqa: F811
    fork_server.prepare(WORKER_MODULES)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the small built-in data set."""
    folder = tmp_path_factory.mktemp("data")
    find_root(small_spec().dataset, folder)
    return folder


@pytest.fixture(scope="package")
def images(data: Path) -> Path:
    """The folder of the evaluated images."""
    return find_root(small_spec().dataset, data) / "images" / "val"


class FinishedRuns:
    """Trains the runs of `RUNS`, each at its first use."""

    def __init__(self, runs: Path, data: Path) -> None:
        self.runs, self.data = runs, data
        self.folders: dict[str, RunFolder] = {}

    def __getitem__(self, name: str) -> RunFolder:
        if name not in self.folders:
            folder = make_folder(self.runs, self.spec(name), self.data)
            status, output = work(folder)
            assert status == 0, output
            self.folders[name] = folder
        return self.folders[name]

    @staticmethod
    def spec(name: str) -> RunSpec:
        """The spec of a run."""
        return small_spec(*RUNS[name])


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> FinishedRuns:
    return FinishedRuns(tmp_path_factory.mktemp("runs"), data)


@pytest.fixture(scope="package")
def model(finished: FinishedRuns) -> TrainedModel:
    """The model of the run with prototypes."""
    return load_run(finished["prototype"].path, "cpu")


@pytest.fixture
def predict(protoseg: CommandLine, finished: FinishedRuns):  # type: ignore[no-untyped-def]  # noqa: F811
    """Call ``protoseg predict`` with the folder of the finished runs."""

    def call(name: str, *arguments: object):  # type: ignore[no-untyped-def]
        run = finished[name]
        texts = [str(argument) for argument in arguments]
        return protoseg("predict", run.run_id, *texts, "--runs", str(finished.runs))

    return call
