"""The parameter counts of the paper, compared with those of our models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from protoseg.config.compose import Composer
from protoseg.config.overrides import Setting
from protoseg.config.schema import HIGHEST_LABEL, RunSpec
from protoseg.errors import ProtosegError
from protoseg.planning.workload import Workload, make_model_key
from protoseg.report.tables.published import find_published_file

if TYPE_CHECKING:
    from protoseg.training.builders.parameter_counts import ParameterCounts

T = TypeVar("T")

FILE = "params.yaml"
MANY = 255
"""Largest number of classes in 8-bit label maps."""


@dataclass(frozen=True)
class CountRow:
    """A published count, and the counts of our parametric and ProtoSeg models of that row."""

    tables: tuple[str, ...]
    method: str
    backbone: str
    num_classes: int
    num_prototypes: int
    """Prototypes per class of the parametric model (ProtoSeg's are not learnable)."""
    decimals: int
    """Number of decimals that the paper prints."""
    published: float
    published_protoseg: float | None
    published_brackets: float | None
    parametric: ParameterCounts
    protoseg: ParameterCounts
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the count of our parametric model equals the printed one, to its last digit."""
        return _agrees(self.parametric.trained, self.published, self.decimals)

    @property
    def protoseg_agrees(self) -> bool | None:
        """The same for ProtoSeg; None: the paper prints no count."""
        if self.published_protoseg is None:
            return None
        return _agrees(self.protoseg.trained, self.published_protoseg, self.decimals)

    @property
    def brackets_agree(self) -> bool | None:
        """The same for the classifier; the paper prints one digit less for ten prototypes."""
        if self.published_brackets is None:
            return None
        decimals = self.decimals - (self.num_prototypes > 1)
        return _agrees(self.parametric.classifier, self.published_brackets, decimals)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: our counts as whole numbers, the paper's in millions."""
        return {
            "tables": list(self.tables),
            "method": self.method,
            "backbone": self.backbone,
            "classes": self.num_classes,
            "prototypes_per_class": self.num_prototypes,
            "published_m": self.published,
            "parametric": self.parametric.trained,
            "agrees": self.agrees,
            "published_protoseg_m": self.published_protoseg,
            "protoseg": self.protoseg.trained,
            "protoseg_agrees": self.protoseg_agrees,
            "published_brackets_m": self.published_brackets,
            "classifier": self.parametric.classifier,
            "brackets_agree": self.brackets_agree,
            "auxiliary": self.parametric.auxiliary,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class PublishedCounts:
    """All rows and their notes."""

    source: str
    rows: tuple[CountRow, ...]
    notes: Mapping[str, str]


def published_counts(
    folders: Sequence[Path],
    composer: Composer,
    count: Callable[[RunSpec], ParameterCounts],
    backbones: set[str],
) -> PublishedCounts:
    """Read ``params.yaml`` and count the model of each row.

    Args:
        folders: folders of published numbers; the first that has the file.
        count: `protoseg.training.builders.parameter_counts.count_spec_parameters`.
        backbones: config options of the rows to return; empty: all.

    Raises:
        ProtosegError: the file is missing or malformed.
    """

    def parse_counts(content: Any, path: str) -> PublishedCounts:
        notes = {key: " ".join(text.split()) for key, text in content["notes"].items()}
        wanted = [r for r in content["rows"] if not backbones or _backbone(r) in backbones]
        rows = tuple(_row(row, composer, count, notes, path) for row in wanted)
        return PublishedCounts(" ".join(content["source"].split()), rows, notes)

    return _read_file(find_published_file(folders, FILE), parse_counts)


def published_sizes(
    folders: Sequence[Path], composer: Composer, backbones: set[str]
) -> dict[Workload, float]:
    """Model -> number of learnable parameters that the paper prints, for some backbones.

    Raises:
        ProtosegError: the file is missing or malformed.
    """

    def parse_sizes(content: Any, path: str) -> dict[Workload, float]:
        sizes: dict[Workload, float] = {}
        for row in content["rows"]:
            if _backbone(row) in backbones:
                ours, proto = _specs(row, composer, path)
                sizes[make_model_key(ours)] = float(row["params_m"]) * 1e6
                if row.get("protoseg_m") is not None:
                    sizes[make_model_key(proto)] = float(row["protoseg_m"]) * 1e6
        return sizes

    return _read_file(find_published_file(folders, FILE), parse_sizes)


def _read_file(path: Path, parse: Callable[[Any, str], T]) -> T:
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ProtosegError(f"{path}: the published counts cannot be read ({error}).") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProtosegError(f"{path}: not a file of published counts ({error!r}).") from error


def _backbone(row: Mapping[str, Any]) -> str:
    return str(row["options"]["backbone"])


def _row(
    row: Mapping[str, Any],
    composer: Composer,
    count: Callable[[RunSpec], ParameterCounts],
    notes: Mapping[str, str],
    where: str,
) -> CountRow:
    parametric, protoseg = _specs(row, composer, where)
    keys = tuple(row.get("notes", ()))
    for key in keys:
        notes[key]  # raises KeyError for an unknown note
    return CountRow(
        tables=tuple(row["tables"]),
        method=row["method"],
        backbone=row["backbone"],
        num_classes=len(parametric.dataset.classes),
        num_prototypes=int(row.get("num_prototypes", 1)),
        decimals=int(row.get("decimals", 1)),
        published=float(row["params_m"]),
        published_protoseg=row.get("protoseg_m"),
        published_brackets=row.get("brackets_m"),
        parametric=count(parametric),
        protoseg=count(protoseg),
        notes=keys,
    )


def _specs(row: Mapping[str, Any], composer: Composer, where: str) -> tuple[RunSpec, RunSpec]:
    """The parametric and the ProtoSeg model of a row."""
    settings = [Setting(key, value) for key, value in row["options"].items()]

    def model(method: str, number: int) -> RunSpec:
        of_method = [Setting("method", method), Setting("method.num_prototypes", number)]
        spec = composer.spec([*settings, *of_method], where)
        return with_classes(spec, int(row["num_classes"]))

    return model("parametric", int(row.get("num_prototypes", 1))), model("paper", 10)


def with_classes(spec: RunSpec, number: int) -> RunSpec:
    """The run with another number of classes, for counting only: such a data set does not exist."""
    names = tuple(f"class {index}" for index in range(number))
    ignored = HIGHEST_LABEL if number > MANY else spec.dataset.ignore_index
    dataset = dataclasses.replace(spec.dataset, classes=names, ignore_index=ignored, flip_pairs=())
    return dataclasses.replace(spec, dataset=dataset)


def _agrees(count: int, printed: float, decimals: int) -> bool:
    return f"{count / 1e6:.{decimals}f}" == f"{printed:.{decimals}f}"
