"""The logger ``mlflow``: one run of MLflow for each run, in the experiment ``protoseg``.

The environment configures it as everywhere: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``.
Without a URI, the runs of a folder are in ``RUNS/mlflow.db`` (SQLite).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.loggers.interface import LoggedPoints, RunInfo

STATE = "mlflow.json"
"""File of the run folder with the id of the MLflow run and the last logged iterations."""
DATABASE = "mlflow.db"
TEXT_LENGTH = 500
"""Longest value of a parameter; MLflow refuses longer ones."""
STATUSES = {"done": "FINISHED", "cancelled": "KILLED", "preempted": "KILLED", "timeout": "KILLED"}
"""Reason of the end -> MLflow's status; others are FAILED."""


class MLflowLogger:
    """Logs ``train/NAME`` and ``evaluation/NAME`` with the iteration as the step.

    The values of the spec are parameters (``method.num_prototypes``). A resumed run continues the
    MLflow run. A point that an earlier attempt has logged is not logged again.
    """

    def start(self, run: RunInfo) -> None:
        """Create or continue the MLflow run."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._points = LoggedPoints(run.folder / STATE)
        runs = run.folder.parent
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs / DATABASE}"
        if self._points.state.get("uri") != uri:  # another store has none of the points
            self._points.state = {"uri": uri}
        # The first worker creates the tables of the database; another one must not do it too.
        lock = files.locked(runs / f".{DATABASE}.lock") if uri.startswith("sqlite") else None
        with lock or contextlib.nullcontext():
            self._client = MlflowClient(tracking_uri=uri)
            self._id = self._points.state.get("id") or self._create_run(run)
        self._points.set_value("id", self._id)
        self._client.update_run(self._id, status="RUNNING")
        parameters = [Param(key, text[:TEXT_LENGTH]) for key, text in _flatten(run.spec)]
        for first in range(0, len(parameters), 100):  # MLflow's limit of one call
            self._client.log_batch(self._id, params=parameters[first : first + 100])

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log the values of an iteration."""
        self._log_point(iteration, "train", values)

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Log an evaluation."""
        self._log_point(iteration, "evaluation", metrics)

    def finish(self, reason: str) -> None:
        """Set the tag ``end`` and the status of the run."""
        self._client.set_tag(self._id, "end", reason)
        self._client.set_terminated(self._id, STATUSES.get(reason, "FAILED"))

    def _create_run(self, run: RunInfo) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "protoseg"
        experiment: Any = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"protoseg.run_id": run.run_id, "protoseg.folder": str(Path(run.folder))}
        created = self._client.create_run(number, run_name=run.run_id, tags=tags)
        return str(created.info.run_id)

    def _log_point(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        if self._points.add_point(group, iteration):
            now = int(time.time() * 1000)
            self._client.log_batch(
                self._id,
                metrics=[
                    self._metric(f"{group}/{name}", value, now, iteration)
                    for name, value in values.items()
                ],
            )


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The values of a spec, with keys like ``method.num_prototypes``."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, str(value)
