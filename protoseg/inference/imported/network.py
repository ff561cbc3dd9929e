"""Builds a network from an mmseg config, and loads weights that protoseg did not train."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from torch import Tensor

import protoseg.models  # noqa: F401  registers heads and backbones of protoseg
from protoseg.config.schema import DatasetSpec
from protoseg.errors import DataError, UsageError
from protoseg.inference.imported.config import ImportedConfig
from protoseg.models.timm_backbone import import_timm
from protoseg.training.builders.components import use_mmseg
from protoseg.training.builders.config import first_line

SHOWN = 3
"""Keys that a message names."""
CONVERT = (
    'If you trust the file, keep its weights and classes alone: python -c "import torch; '
    "c = torch.load('{name}', weights_only=False, map_location='cpu'); "
    "m = c.get('meta', {{}}).get('dataset_meta'); "
    "torch.save({{'state_dict': c['state_dict'], 'meta': {{'dataset_meta': m}}}}, 'weights.pth')\""
)
FAULTS = (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, OSError)
"""What torch raises for a damaged file."""


def load_imported_network(
    config: ImportedConfig, checkpoint: Path, dataset: DatasetSpec, same_classes: bool = False
) -> Any:
    """Build the network of a config and load its weights; all weights of prediction must fit.

    Args:
        config: of the network.
        checkpoint: file of weights, loaded with ``weights_only``.
        dataset: the data set on which it is evaluated.
        same_classes: the classes of the file are those of the data set, under other names.

    Returns:
        The segmentor, on the GPU if available, in evaluation mode.

    Raises:
        UsageError: mmseg cannot build the model, or it has another number of classes.
        DataError: no file of weights, pickled code, other classes than the data set, or weights
            that do not fit.
    """
    content = read_weights(checkpoint)
    network = build_network(config)
    check_classes(network, config, dataset)
    if not same_classes:
        check_class_names(content, checkpoint, dataset)
    load_weights(network, content, checkpoint)
    return (network.cuda() if torch.cuda.is_available() else network).eval()


def build_network(config: ImportedConfig) -> Any:
    """Build the segmentor of a config, with random weights and without SyncBN.

    Raises:
        UsageError: mmseg cannot build it.
    """
    use_mmseg()
    try:
        if "TIMMBackbone" in str(config.model.get("backbone")):
            import_timm()  # mmseg was imported without it
        network = MODELS.build(dict(config.model))
    except Exception as error:  # the constructors of any package
        raise UsageError(
            f"{config.path}: mmseg cannot build its model: {first_line(error)}. Install the "
            "package that it needs, or correct the config."
        ) from error
    return revert_sync_batchnorm(network)


def read_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint of mmengine, or a dictionary of weights; no code in it is run.

    Returns:
        The content, with the weights as ``state_dict``.

    Raises:
        DataError: no such file, pickled code, a damaged file, or no weights in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Name the file of the weights.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({named[1]})" if named else ""
            advice = CONVERT.format(name=path.name)
            raise DataError(
                f"{path}: holds pickled Python objects{what}, which are code and are not loaded. "
                f"{advice}"
            ) from error
        raise _damaged_error(path, error) from error
    except FAULTS as error:
        raise _damaged_error(path, error) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a dict of weights.")
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return {**content, "state_dict": content[key]}
    return {"state_dict": content}


def check_classes(network: Any, config: ImportedConfig, dataset: DatasetSpec) -> None:
    """Check that a network scores as many classes as a data set has.

    Raises:
        UsageError: another number, or none.
    """
    head = getattr(network, "decode_head", None)
    heads = list(head) if isinstance(head, torch.nn.ModuleList) else [head]
    number = getattr(heads[-1], "num_classes", None)
    if number is None:
        raise UsageError(
            f"{config.path}: its model {type(network).__name__} has no decode_head with "
            "num_classes. Name a config with a semantic segmentor of mmseg."
        )
    if number != len(dataset.classes):
        raise UsageError(
            f"{config.path}: its network has {number} classes, but {dataset.name} has "
            f"{len(dataset.classes)}. Name the data set that it was trained for."
        )


def check_class_names(content: Mapping[str, Any], path: Path, dataset: DatasetSpec) -> None:
    """Check the names of the classes in the metadata of a checkpoint, if it has them.

    Upper case, spaces and signs do not count.

    Raises:
        DataError: other names, or another order.
    """
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    in_file = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    if not isinstance(in_file, list | tuple):
        return
    theirs, ours = _simplify_names(in_file), _simplify_names(dataset.classes)
    if theirs == ours:
        return
    if sorted(theirs) == sorted(ours):
        raise DataError(
            f"{path}: has the classes of {dataset.name} in another order: "
            f"{_list_keys(list(map(str, in_file)))}. Use a data set with this order."
        )
    pairs = zip(in_file, dataset.classes, theirs, ours, strict=False)
    differing = [f"{a} (here {b})" for a, b, their, our in pairs if their != our]
    raise DataError(
        f"{path}: was trained on other classes than those of {dataset.name}: "
        f"{_list_keys(differing)}. If they are the same under other names, in this order, add "
        "--same-classes."
    )


def load_weights(network: Any, content: Mapping[str, Any], path: Path) -> None:
    """Load weights of which every one must fit; auxiliary heads are left out.

    Raises:
        DataError: weights are missing, superfluous, or of another shape.
    """
    weights = {
        str(key).removeprefix("module."): value for key, value in content["state_dict"].items()
    }
    weights = {k: v for k, v in weights.items() if not k.startswith("auxiliary_head.")}
    state: dict[str, Tensor] = network.state_dict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):  # old files lack it, and prediction ignores it
            weights.setdefault(key, value)
    no_tensors = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    problems = {
        "are missing in the file": [key for key in state if key not in weights],
        "of the file are not in the network": [key for key in weights if key not in state],
        "have another shape": [
            f"{key} {tuple(weights[key].shape)}, network {tuple(value.shape)}"
            for key, value in state.items()
            if isinstance(weights.get(key), Tensor) and weights[key].shape != value.shape
        ],
        "are not tensors": no_tensors,
    }
    described = [f"{len(k)} {what} ({_list_keys(k)})" for what, k in problems.items() if k]
    if described:
        raise DataError(
            f"{path}: its weights do not fit the network of the config: of {len(state)} weights "
            f"{'; '.join(described)}. Name the config that they were trained with."
        )
    network.load_state_dict(weights)


def _simplify_names(names: Sequence[Any]) -> list[str]:
    return [re.sub(r"[\W_]+", "", str(name)).casefold() for name in names]


def _list_keys(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{more}"


def _damaged_error(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: not a file of torch weights, or a damaged one ({first_line(error)}). Copy it "
        "again."
    )
