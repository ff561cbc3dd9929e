"""The data of the figures that are drawn from samples of runs, and the options of such a figure."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from protoseg.errors import UsageError, describe_unknown_name
from protoseg.files import canonical_json
from protoseg.runs.results.samples import Array

RULES = ("random", "worst", "best", "disagreement")
"""How images are chosen."""
MARK = "protoseg-options:"
"""Precedes the options in a figure file of any format."""
MAX_IMAGES = 12
PROJECTIONS = {"tsne": "t-SNE", "umap": "UMAP"}
"""Reduction of embeddings to two dimensions -> its name."""


@dataclass(frozen=True)
class SampleOptions:
    """What a figure of samples shows. The options are kept in its files, to verify them."""

    choose: str = ""
    """One of `RULES`; empty for the default of the figure type."""
    seed: int = 0
    """Of the random choice, of t-SNE and of UMAP."""
    images: int = 0
    """Number of images; 0 for the default of the figure type."""
    rows: tuple[str, ...] = ()
    """Labels of the rows; empty for all."""
    classes: tuple[str, ...] = ()
    """Names of the classes; empty for the most frequent ones."""
    projection: str = "tsne"
    """Of embeddings; one of `PROJECTIONS`."""

    @property
    def method(self) -> str:
        """Name of the projection."""
        return PROJECTIONS[self.projection]

    def encode(self) -> str:
        """Encode the options as text of letters, digits, ``-`` and ``_``."""
        return base64.urlsafe_b64encode(canonical_json(self._list_values())).decode().rstrip("=")

    def _list_values(self) -> dict[str, object]:
        """The values; without the projection if it is the default, as in earlier figures."""
        values = asdict(self)
        if self.projection == "tsne":
            del values["projection"]
        return values

    def list_arguments(self) -> str:
        """The options of ``protoseg figures`` that give them, with a leading space each."""
        values: list[tuple[str, object]] = [("choose", self.choose)] if self.choose else []
        values += [(name, n) for name, n in (("seed", self.seed), ("images", self.images)) if n]
        values += [("row", row) for row in self.rows]
        values += [("class", name) for name in self.classes]
        values += [("projection", self.projection)] if self.projection != "tsne" else []
        return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in values)


def read_options(content: bytes) -> SampleOptions:
    """Read the options from a figure file of any format; the defaults without any."""
    match = re.search(MARK.encode() + rb"([\w-]+)", content)
    if match is None:
        return SampleOptions()
    try:
        values = json.loads(base64.urlsafe_b64decode(match[1] + b"=" * (-len(match[1]) % 4)))
        values |= {key: tuple(values[key]) for key in ("rows", "classes")}
        options = SampleOptions(**values)
        hash(options)  # a TypeError for a list where text belongs
        return options
    except (ValueError, TypeError, KeyError):
        return SampleOptions()


def check_options(options: SampleOptions, figure_type: str) -> None:
    """Refuse options with values out of range.

    Raises:
        UsageError: names the first one.
    """
    if options.choose and options.choose not in RULES:
        raise UsageError(
            describe_unknown_name("rule", options.choose, f"{figure_type}: --choose", RULES)
        )
    if options.images > MAX_IMAGES:
        raise UsageError(
            f"{figure_type}: --images: {options.images} is out of range. Name 1 to {MAX_IMAGES}."
        )


@dataclass(frozen=True)
class OptionPlot:
    """What all figures with options have."""

    options: str
    """Encoded `SampleOptions`."""


@dataclass(frozen=True)
class SamplePlot(OptionPlot):
    """What all figures of samples have."""

    folder: str
    """Folder of the data set in the data folder, for the pictures."""
    sources: tuple[str, ...]
    """Digest of the samples of each row."""


@dataclass(frozen=True)
class ClassColours:
    """The colour of each class."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    """Red, green and blue, 0 to 255."""
    ignored: int
    """Label of ignored pixels; they are black."""

    def paint(self, labels: Array) -> Array:
        """Colour a label map (h, w), as (h, w, 3) uint8."""
        table = np.zeros((max(self.ignored, len(self.colours)) + 1, 3), np.uint8)
        table[: len(self.colours)] = np.array(self.colours, np.uint8)
        painted: Array = table[labels]
        return painted


@dataclass(frozen=True)
class LabelledImage:
    """An image with its ground truth and the predictions of the rows, label maps (h, w)."""

    name: str
    truth: Array
    predictions: tuple[Array, ...]
    mious: tuple[float, ...]
    """mIoU of each prediction at full size, in percent."""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """Top, left, bottom and right of regions, in values of the label map."""


@dataclass(frozen=True)
class ExamplePlot(SamplePlot):
    """Images side by side: picture, ground truth, and the prediction of each row."""

    rows: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    colours: ClassColours


@dataclass(frozen=True)
class DisagreementPlot(ExamplePlot):
    """The same of two rows, with boxes where the second is right and the first is wrong."""


@dataclass(frozen=True)
class Patch:
    """A square of a picture around a pixel that is near to a prototype."""

    name: str
    row: int
    column: int
    similarity: float


@dataclass(frozen=True)
class PrototypePanel:
    """The prototypes of one class."""

    label: str
    image: str
    size: tuple[int, int]
    """Height and width of the image, in pixels."""
    closest: Array
    """(h, w), number of the closest prototype, 0 to K - 1; -1 for one of another class."""
    similarity: Array
    """(h, w), similarity to it."""
    pixels: tuple[int, ...]
    """Pixels of all sampled images whose closest prototype it is."""
    patches: tuple[tuple[Patch, ...], ...]
    """The nearest ones of each prototype, the most similar first."""


@dataclass(frozen=True)
class PrototypePlot(SamplePlot):
    """Where the prototypes of some classes are the closest ones, and their nearest patches."""

    panels: tuple[PrototypePanel, ...]
    colours: tuple[tuple[int, int, int], ...]
    """Colour of each prototype."""


@dataclass(frozen=True)
class EmbeddingPanel:
    """Embeddings of pixels of one row."""

    label: str
    points: Array
    """(N, D), pixels."""
    classes: Array
    """(N,), position of the class of each pixel in ``EmbeddingPlot.names``."""
    prototypes: Array
    """(P, D), marked prototypes; (0, D) for a row without prototypes."""
    prototype_classes: Array
    """(P,), as ``classes``."""


@dataclass(frozen=True)
class EmbeddingPlot(SamplePlot):
    """Embedding spaces side by side, each reduced to two dimensions."""

    names: tuple[str, ...]
    seed: int
    projection: str
    """One of `PROJECTIONS`."""
    panels: tuple[EmbeddingPanel, ...]


@dataclass(frozen=True)
class ConfusionPanel:
    """The confusion matrix of one row."""

    label: str
    shares: tuple[tuple[float | None, ...], ...]
    """Percent of the pixels of each ground-truth class; None for a class without pixels."""
    missing: str = ""


@dataclass(frozen=True)
class ConfusionPlot(OptionPlot):
    """Confusion matrices, the rows divided by their sums."""

    names: tuple[str, ...]
    panels: tuple[ConfusionPanel, ...]


def convert_arrays(value: Any) -> Any:
    """Replace each array in plain data by its type, shape and digest, for JSON and digests."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        digest = hashlib.sha256(data.tobytes()).hexdigest()
        return {"dtype": data.dtype.str, "shape": list(data.shape), "sha256": digest}
    if isinstance(value, dict):
        return {key: convert_arrays(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(convert_arrays(each) for each in value)
    return value
