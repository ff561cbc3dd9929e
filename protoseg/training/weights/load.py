"""Pre-trained backbone weights: find the file, check its digest, load all tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from protoseg import files
from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError
from protoseg.training.weights import swin


def find_weights(backbone: BackboneSpec, folder: Path) -> Path | None:
    """Find and verify the weights file of a backbone; None for random initialisation.

    Raises:
        DataError: the file is missing, or has another digest than the spec.
    """
    if not backbone.weights:
        return None
    if backbone.uses_hub:
        from protoseg.training.weights.timm_weights import find_hub_weights

        path = find_hub_weights(backbone.timm_model)
    else:
        path = folder / backbone.weights
    if not path.is_file():
        raise DataError(
            f"{path}: the weights of backbone {backbone.name} are missing. Copy the file there "
            "(protoseg weights shows its address), or name its folder with --weights or "
            "PROTOSEG_WEIGHTS."
        )
    digest = files.file_digest(path)
    if not digest.startswith(backbone.weights_sha256):
        raise DataError(
            f"{path}: not the weights that backbone {backbone.name} names: SHA-256 is {digest}, "
            f"expected {backbone.weights_sha256}. Get the expected file, or use this one as "
            f"another experiment with backbone.weights_sha256={digest}."
        )
    return path


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load all parameters and statistics of a backbone from a file.

    The file may hold more than the backbone, for example a classifier. Its keys may be nested below
    ``state_dict`` or ``model``, and may start with ``backbone.``. Swin's weights may have the
    format of its authors; the norms that mmseg adds after the stages keep their initial values.

    Raises:
        DataError: not a weights file, or weights that do not fit the backbone.
    """
    if type(backbone).__name__ == "TimmBackbone":
        from protoseg.training.weights.timm_weights import load_timm_weights

        load_timm_weights(backbone, path)  # type: ignore[arg-type]
        return
    content = read_weights(path)
    loaded = {name.removeprefix("backbone."): value for name, value in content.items()}
    if _is_swin(backbone):
        loaded = swin.convert_to_mmseg(loaded)
    state = backbone.state_dict()
    problems = []
    for name, value in state.items():
        if name not in loaded:
            if not _is_optional(backbone, name):
                problems.append(f"{name} is missing")
        elif not isinstance(loaded[name], torch.Tensor):
            problems.append(f"{name} is not a tensor")
        elif loaded[name].shape != value.shape:
            problems.append(f"{name} is {tuple(loaded[name].shape)}, expected {tuple(value.shape)}")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(
            f"{path}: these weights do not fit the backbone {type(backbone).__name__}: "
            f"{problems[0]}{more}. Use weights of this backbone, or backbone.weights='' for none."
        )
    backbone.load_state_dict({name: loaded.get(name, value) for name, value in state.items()})


def read_weights(path: Path) -> dict[str, Any]:
    """Read the weights in a file, which may be below ``state_dict`` or ``model``.

    Raises:
        DataError: not a file of weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise DataError(
                f"{path}: holds pickled Python objects, which are code and are not loaded. Save "
                "its weights alone: torch.save({'state_dict': checkpoint['state_dict']}, FILE)."
            ) from error
        raise DataError(f"{path}: not a file of torch weights.") from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        text = str(error).strip()
        first_line = text.splitlines()[0] if text else type(error).__name__
        raise DataError(f"{path}: not a file of torch weights ({first_line}).") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a dict of weights.")
    return content


def _is_swin(backbone: nn.Module) -> bool:
    # Imported here: `protoseg weights get` needs neither mmseg's models nor the warnings of mmcv.
    from mmseg.models.backbones import SwinTransformer

    return isinstance(backbone, SwinTransformer)


def _is_optional(backbone: nn.Module, name: str) -> bool:
    """Whether a weights file may lack this entry of a backbone's state."""
    if _is_swin(backbone) and swin.NOT_IN_FILES.fullmatch(name):
        return True
    return name.endswith("num_batches_tracked")
