"""Pre-trained backbone weights: found, checked against their digest, loaded whole."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from protoseg import files
from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError
from protoseg.training.weights import swin


def find_weights(backbone: BackboneSpec, folder: Path) -> Path | None:
    """The file with the weights of a backbone; None where it starts from random ones.

    Raises:
        DataError: the file is missing, or is not the one that the spec names.
    """
    if not backbone.weights:
        return None
    path = folder / backbone.weights
    if not path.is_file():
        raise DataError(
            f"{path}: the weights of backbone {backbone.name} are missing. Put the file there "
            "(protoseg weights tells from where), or name its folder with --weights (or "
            "PROTOSEG_WEIGHTS)."
        )
    found = files.file_digest(path)
    if not found.startswith(backbone.weights_sha256):
        raise DataError(
            f"{path}: not the weights that backbone {backbone.name} names: SHA-256 is {found}, "
            f"expected {backbone.weights_sha256}. Get the right file, or accept this one as "
            f"another experiment with backbone.weights_sha256={found}."
        )
    return path


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Fill a backbone from a file; every parameter and statistic must be there, and fit.

    The file may hold more than the backbone (a classifier), and its keys may be nested below
    ``state_dict`` or ``model`` and start with ``backbone.``. Swin's weights may be those of its
    authors; the norms that mmseg puts behind its stages are in no file and start as they are.

    Raises:
        DataError: not a file of weights, or one that does not fit.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not a file of torch weights ({first}).") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no weights, but {type(content).__name__}.")
    given = {name.removeprefix("backbone."): value for name, value in content.items()}
    if _is_swin(backbone):
        given = swin.as_mmseg(given)
    wanted = backbone.state_dict()
    problems = []
    for name, value in wanted.items():
        if name not in given:
            if not _starts_fresh(backbone, name):
                problems.append(f"{name} is missing")
        elif not isinstance(given[name], torch.Tensor):
            problems.append(f"{name} is no tensor")
        elif given[name].shape != value.shape:
            problems.append(f"{name} is {tuple(given[name].shape)}, expected {tuple(value.shape)}")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(
            f"{path}: these weights do not fit the backbone {type(backbone).__name__}: "
            f"{problems[0]}{more}. Use the weights made for it, or backbone.weights='' for none."
        )
    backbone.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})


def _is_swin(backbone: nn.Module) -> bool:
    # Imported here: `weights get` does without mmseg's models, and what mmcv says of itself.
    from mmseg.models.backbones import SwinTransformer

    return isinstance(backbone, SwinTransformer)


def _starts_fresh(backbone: nn.Module, name: str) -> bool:
    """Whether files of weights may lack this entry of a backbone."""
    if _is_swin(backbone) and swin.NOT_IN_FILES.fullmatch(name):
        return True
    return name.endswith("num_batches_tracked")
