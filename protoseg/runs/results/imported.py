"""The record of an evaluation of weights that protoseg did not train.

    imported/NAME.json    sealed JSON (`FORMAT` names the keys)
    imported/NAME.npz     confusion counts of every image

NAME is ``WEIGHTS-DIGEST.DATASET.SPLIT``: the name of the file of weights, ten digits of the
SHA-256 of weights and config, the data set and its split. The folder is beside the run folders, and
in the folder of results where such evaluations are published.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protoseg.runs.results.evaluation_files import EvaluationFormat
from protoseg.runs.sealed import SealedFormat

IMPORTED = "imported"
"""Folder of these evaluations, in the folder of runs and in that of results."""


def name_imported(weights: Mapping[str, str], config: Mapping[str, str], data: str) -> str:
    """The name of the files of an evaluation, without their suffix.

    Args:
        weights: ``file`` and ``sha256`` of the weights.
        config: ``file`` and ``sha256`` of the config.
        data: ``DATASET.SPLIT``.
    """
    stem = re.sub(r"[^\w-]+", "_", Path(weights["file"]).stem)
    both = hashlib.sha256(f"{weights['sha256']} {config['sha256']}".encode()).hexdigest()
    return f"{stem}-{both[:10]}.{data}"


def _name_content(content: Mapping[str, Any]) -> str:
    data = f"{content['dataset']['name']}.{content['split']}"
    return name_imported(content["weights"], content["config"], data)


FORMAT = EvaluationFormat(
    SealedFormat(
        "imported evaluation",
        1,
        {
            "weights": dict,  # file, sha256
            "config": dict,  # file; sha256 of its model and of its preparation of images
            "state_sha256": str,  # of the network, as in the record of a run
            "parameters": dict,  # learnable: count of numbers, without an auxiliary head
            "dataset": dict,  # the spec of the data set
            "split": str,
            "pipeline": list,  # transforms between reading and packing an image
            "test_cfg": dict,  # mmseg's: mode, crop_size, stride
            "metrics": dict,  # as in the record of a run
            "per_class": list,
            "confusion": dict,  # file, sha256
            "seconds": (int, float),
            "provenance": dict,  # as in the record of a run, with the digest of the data
            "finished": str,  # UTC, ISO 8601
        },
    ),
    _name_content,
)
