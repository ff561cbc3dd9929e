"""Exports the network of a finished run to a folder for mmengine, mmseg and onnxruntime.

DIR/model.pth     weights (``state_dict``), classes and colours (``meta``)
DIR/config.py     network and preparation of an image; ``mmseg.apis.init_model`` reads both files
DIR/model.onnx    the network as ONNX, if wanted (`protoseg.inference.onnx_file`)
DIR/export.json   origin of the network, and digests of the other files
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from protoseg import __version__, files
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.inference.class_colors import choose_colors
from protoseg.inference.export_config import (
    ExportedNetwork,
    make_exported_network,
)
from protoseg.runs.folder import RunFolder
from protoseg.training.evaluation.finished_run import load_network, read_finished_run

WEIGHTS, CONFIG, ONNX, ORIGIN = "model.pth", "config.py", "model.onnx", "export.json"
CHECKED_SIZE = (97, 129)
"""Height and width in pixels of the random image on which both networks are compared. Multiples of
32 plus 1, as mmseg warns of other sizes where corners are aligned."""
TOLERANCE = 1e-4
"""Largest difference of scores: the kernels of one machine give the same bits, or nearly."""


def export_run(
    folder: RunFolder, target: Path, onnx: bool = False, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Export the network of a finished run; the folder is created completely or not at all.

    The exported files are read back, and their network must give the scores of the run's network
    for a random image.

    Args:
        folder: of the run.
        target: the folder to create.
        onnx: whether it gets an ONNX file too.
        size: height and width of all images of the ONNX file; None for any size.

    Returns:
        The content of ``export.json``.

    Raises:
        UsageError: an existing target, a run of the task ``weak``, or a head without ONNX.
        ProtosegError: the run has not finished, its checkpoint is missing or differs from the
            record, or the folder cannot be written.
    """
    if target.exists():
        raise UsageError(f"{target}: exists already. Name another folder, or move this one.")
    spec, record = read_finished_run(folder)
    exported = make_exported_network(spec)
    if onnx:
        from protoseg.inference.onnx_file import check_onnx, write_onnx

        check_onnx(spec)
    network = load_network(folder, record, spec).cpu()
    # In the same parent folder, so that it can be renamed.
    files.make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    files.make_folder(temporary)
    try:
        comment = f"Exported by protoseg {__version__}: run {record['run_id']}"
        files.write_bytes(temporary / CONFIG, exported.render(comment).encode())
        _write_weights(exported, network, spec, record, temporary / WEIGHTS)
        _check_scores(network, temporary)
        described = write_onnx(network, temporary / ONNX, size) if onnx else None
        origin = _describe_origin(exported, spec, record, temporary)
        if described is not None:
            origin["onnx"] = {**described, "resize": list(spec.evaluation.scale)}
        files.write_json(temporary / ORIGIN, origin)
        temporary.rename(target)
    except OSError as error:
        raise files.storage_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return origin


def _write_weights(
    exported: ExportedNetwork, network: Any, spec: RunSpec, record: dict[str, Any], path: Path
) -> None:
    """Write the weights with the metadata that mmseg's ``init_model`` reads."""
    dataset = spec.dataset
    meta = {
        "dataset_meta": {
            "classes": list(dataset.classes),
            "palette": choose_colors(dataset).tolist(),
        },
        "protoseg": {"run_id": record["run_id"], "record": record["digest"]},
    }
    content = {"state_dict": exported.rename_weights(network.state_dict()), "meta": meta}
    # In memory first: torch hides the error of a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(path, buffer.getvalue())


def _check_scores(network: Any, folder: Path) -> None:
    """Compare the scores of the exported network with those of the run's network.

    Raises:
        ProtosegError: they differ.
        RuntimeError: the weights do not fit the config.
    """
    config = Config.fromfile(folder / CONFIG)
    content = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    copy: Any = MODELS.build(config.model).eval()
    copy.load_state_dict(content["state_dict"])
    image = torch.randn(1, 3, *CHECKED_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (each.eval()(image, mode="tensor") for each in (network, copy))
    if not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
        difference = float((ours - theirs).abs().max())
        raise ProtosegError(
            f"{CONFIG}: its network gives other scores than the run's (by up to {difference:.3g}). "
            "Nothing was exported; please report the run's method and decoder as an error."
        )


def _describe_origin(
    exported: ExportedNetwork, spec: RunSpec, record: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """The content of ``export.json``."""
    names = [name for name in (WEIGHTS, CONFIG, ONNX) if (folder / name).exists()]
    return {
        "run_id": record["run_id"],
        "record": record["digest"],
        "state_sha256": record["provenance"]["state_sha256"],
        "dataset": spec.dataset.name,
        "classes": list(spec.dataset.classes),
        "miou": record["metrics"]["miou"],
        "split": spec.evaluation.split,
        "imports": exported.imports,
        "protoseg": __version__,
        "files": {name: files.file_digest(folder / name) for name in names},
    }
