"""Evaluates weights that protoseg did not train, as it evaluates its runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.check import require_labelled_pixels
from protoseg.datasets.digest import verify_digest
from protoseg.datasets.layout import find_root, find_splits
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.inference.imported.config import (
    ImportedConfig,
    check_transforms,
    make_plain,
    read_config,
)
from protoseg.inference.imported.network import load_imported_network
from protoseg.runs.results.imported import name_imported
from protoseg.training.builders.components import EvaluationComponents, build_loader
from protoseg.training.builders.dataloaders import make_test_loader
from protoseg.training.evaluation.measurement import measure_network
from protoseg.training.machine.determinism import hash_state


class ImportedWeights:
    """Config and weights of a network, with the data on which it is evaluated.

    Args:
        config: mmseg config of the network.
        checkpoint: file of its weights.
        dataset: the data set.
        split: name of the split.

    Raises:
        UsageError: the config cannot be used.
        DataError: there is no file of weights.
    """

    def __init__(self, config: Path, checkpoint: Path, dataset: DatasetSpec, split: str) -> None:
        self.config: ImportedConfig = read_config(config)
        self.checkpoint, self.dataset, self.split = checkpoint, dataset, split
        if not checkpoint.is_file():
            raise UsageError(f"{checkpoint}: there is no such file. Name the file of the weights.")
        self.origin = {
            "weights": {"file": checkpoint.name, "sha256": files.file_digest(checkpoint)},
            "config": {"file": config.name, "sha256": self.config.sha256},
        }

    @property
    def name(self) -> str:
        """The name of the evaluation."""
        data = f"{self.dataset.name}.{self.split}"
        return name_imported(self.origin["weights"], self.origin["config"], data)

    def evaluate(
        self,
        data: Path,
        same_classes: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Evaluate the network; everything is checked before the first image.

        Args:
            data: the data folder.
            same_classes: see `load_imported_network`.
            progress: called with (evaluated images, all images).

        Returns:
            The content of the evaluation (`protoseg.runs.results.imported`), and the packed counts.

        Raises:
            UsageError: an unknown split, or a network with another number of classes.
            DataError: weights that cannot be loaded or do not fit, or data that differ from their
                digest or have no labels.
        """
        dataset = self.dataset
        check_transforms(self.config)
        root = find_root(dataset, data)
        digest = verify_digest(root, dataset)
        splits = find_splits(root, dataset)
        if self.split not in splits:
            raise UsageError(describe_unknown_name("split", self.split, dataset.name, splits))
        require_labelled_pixels(root, dataset, self.split)
        network = load_imported_network(self.config, self.checkpoint, dataset, same_classes)
        loader = build_loader(make_test_loader(dataset, self.split, root, self.config.pipeline))
        parts = EvaluationComponents(network, loader)
        measured, counts = measure_network(parts, dataset.classes, self.name, digest, progress)
        content = {
            **self.origin,
            "state_sha256": hash_state(network.state_dict()),
            "parameters": {
                "learnable": sum(p.numel() for p in network.parameters() if p.requires_grad)
            },
            "dataset": to_plain(dataset),
            "split": self.split,
            "pipeline": make_plain(self.config.pipeline),
            "test_cfg": self.config.test_cfg,
            **measured,
        }
        return content, counts
