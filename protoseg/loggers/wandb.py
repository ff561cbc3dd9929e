"""The logger ``wandb``: one run of Weights & Biases for each run.

The environment configures it as everywhere: ``WANDB_MODE=offline``, ``WANDB_PROJECT``,
``WANDB_ENTITY``, ``WANDB_API_KEY``, ``WANDB_BASE_URL``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from protoseg.loggers.interface import LoggedPoints, RunInfo

STATE = "wandb.json"
"""File of the run folder with the id of the W&B run and the last logged iterations."""
ITERATION = "iteration"
"""The x axis of all charts. W&B's step only increases, so it cannot be the iteration of a run that
resumes."""


class WandbLogger:
    """Logs ``train/NAME`` and ``evaluation/NAME`` against ``iteration``.

    All attempts of a run folder have one W&B id. A point that an earlier attempt has logged is not
    logged again; W&B cannot remove it. Offline, each attempt has a folder
    ``RUN_FOLDER/wandb/offline-run-*``, and ``wandb sync`` joins them by the id.
    """

    def start(self, run: RunInfo) -> None:
        """Start or resume the W&B run."""
        import wandb

        self._points = LoggedPoints(run.folder / STATE)
        # The token distinguishes this folder from another one with the same run: a run that is
        # trained again has a curve apart.
        run_id = self._points.state.get("id") or f"{run.run_id}-{secrets.token_hex(3)}"
        self._points.set_value("id", run_id)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "protoseg",
            id=run_id,
            name=run.run_id,
            config={"run_id": run.run_id, **run.spec},
            dir=str(run.folder),
            resume="allow",
            save_code=False,
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
        )
        self._run.define_metric(ITERATION)
        self._run.define_metric("*", step_metric=ITERATION)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log the values of an iteration."""
        self._log_point(iteration, "train", values)

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Log an evaluation."""
        self._log_point(iteration, "evaluation", metrics)

    def finish(self, reason: str) -> None:
        """Upload what is left, and close the run; W&B shows a reason other than ``done``."""
        self._run.summary["end"] = reason
        self._run.finish(exit_code=0 if reason == "done" else 1)

    def _log_point(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        if self._points.add_point(group, iteration):
            named = {f"{group}/{name}": value for name, value in values.items()}
            self._run.log({ITERATION: iteration, **named})
