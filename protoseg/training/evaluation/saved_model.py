"""The model in a checkpoint: found, read without running code, checked, and loaded.

Evaluation, export of masks and `protoseg.inference` load models with this module only.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder
from protoseg.training import checkpoint
from protoseg.training.builders.components import (
    build_segmentor,
    use_channels_last,
    use_mmseg,
)
from protoseg.training.builders.config import build_model, first_line
from protoseg.training.checkpoint import Checkpoint
from protoseg.training.machine.determinism import hash_state

TRAIN_AGAIN = "Train the run again, for example with protoseg reproduce"


def find_last_model(folder: RunFolder) -> Checkpoint:
    """Find the newest valid checkpoint of a run.

    Raises:
        ProtosegError: there is none.
    """
    saved, problems = checkpoint.find_newest(folder.checkpoints)
    if saved is None:
        detail = f" ({problems[0]})" if problems else ""
        raise ProtosegError(
            f"{folder.checkpoints}: no valid checkpoint of {folder.run_id}{detail}. {TRAIN_AGAIN} "
            f"{folder.run_id}."
        )
    return saved


def build_network(spec: RunSpec, device: torch.device) -> Any:
    """Build the segmentor of a run on a device, without optimiser, data and initial weights.

    The state of torch's random generator is kept.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    use_mmseg()
    with torch.random.fork_rng(devices=[]):
        # As a Config: mmseg reads the keys of `test_cfg` as attributes.
        module = build_segmentor(Config({"model": build_model(spec)}).model)
    if spec.precision != "fp32" and device.type == "cpu":
        use_channels_last(module)  # as in training and its evaluation
    return module.to(device).eval()


def load_state(module: nn.Module, path: Path, run_id: str, state_sha256: str | None) -> str:
    """Load the model of a checkpoint into the network of its run.

    Args:
        module: the network.
        path: the checkpoint.
        run_id: the run that it belongs to, for messages.
        state_sha256: digest of the state in the run's record; None if the record is of another
            iteration.

    Returns:
        The digest of the state (`protoseg.training.machine.determinism.hash_state`).

    Raises:
        ProtosegError: the file is damaged, holds code or another network, or differs from the
            record.
    """
    state = read_state(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ProtosegError(
            f"{path}: is a checkpoint of another network than {run_id}: {_first_key(error)}. Name "
            f"a checkpoint of this run. {TRAIN_AGAIN} {run_id}."
        ) from error
    actual = hash_state(module.state_dict())
    if state_sha256 is not None and actual != state_sha256:
        raise ProtosegError(
            f"{path}: differs from the model that {run_id} was recorded with. {TRAIN_AGAIN} "
            f"{run_id}."
        )
    return actual


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read the model's state in a checkpoint; code in the file is not run.

    Raises:
        ProtosegError: the file does not match its digest, or is no checkpoint of protoseg.
    """
    if problem := checkpoint.find_problem(path):
        raise ProtosegError(
            f"{path}: {problem}. Copy the checkpoint and its .json file again from the run that "
            "wrote them."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ProtosegError(
            f"{path}: holds Python code ({_name_global(error)}), which is not run. Allowed are "
            "tensors and plain values. Use the checkpoint that protoseg wrote."
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise ProtosegError(f"{path}: cannot be read ({first_line(error)}). Copy it again.") from (
            error
        )
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ProtosegError(
            f"{path}: has no model, a dict of tensors under 'model'. Name a checkpoint of a run."
        )
    return state


def _name_global(error: Exception) -> str:
    """The object that torch refused to unpickle."""
    match = re.search(r"(?:GLOBAL|Unsupported global:? ?(?:GLOBAL)?) (\S+)", str(error))
    return match[1].rstrip(".,") if match else first_line(error)


def _first_key(error: Exception) -> str:
    """The first difference that torch lists, without its heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[1] if len(lines) > 1 else lines[0]
    more = f" and {len(lines) - 2} more lines" if len(lines) > 2 else ""
    return (text if len(text) < 160 else f"{text[:160].rpartition(',')[0]}, ...").rstrip(
        ". "
    ) + more
