"""Declares the spec of one training run: `RunSpec` and its parts, with all defaults.

The spec holds every setting that changes the result of a run, and no other. Paths, the number of
loader workers, the cluster and the launcher are not part of it. Sources of the defaults: "paper"
is *Rethinking Semantic Segmentation: A Prototype View*, "released" its authors' code, "mmseg" the
recipe files of MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import protoseg.config.hierarchy.methods  # noqa: F401  its methods join MethodSpec.variants
from protoseg.config.fields import added, items, number, size
from protoseg.config.holdout.settings import HoldoutSpec
from protoseg.config.methods import ContrastSpec, MethodSpec
from protoseg.config.schedule import ScheduleSpec
from protoseg.errors import UsageError, describe_unknown_name

METHOD_VERSION = 1
"""Increases when a change of the code changes the result of a spec (docs/architecture.md)."""

HIGHEST_LABEL = 2**16 - 1
"""Largest label value of a 16-bit label map."""


@dataclass(frozen=True)
class BackboneSpec:
    """The encoder: ``model.backbone`` of an mmseg recipe, and its initial weights."""

    name: str
    recipe: str
    """mmseg config file that provides ``model.backbone``, relative to mmseg's configs folder."""
    channels: tuple[int, ...]
    """Channels of each feature map of the backbone; they set the decoder's input sizes. Empty for a
    model of timm, which is asked for them."""
    weights: str = ""
    """File name in the weights folder; empty for random weights; ``hub`` for the file of a timm
    model in the cache of its hub."""
    weights_sha256: str = ""
    """SHA-256 of that file, or its first digits, checked before training; empty accepts any."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the backbone of the recipe."""

    def __post_init__(self) -> None:
        if not self.weights:  # no file, hence no digest
            object.__setattr__(self, "weights_sha256", "")

    @property
    def timm_model(self) -> str:
        """Name of the model of timm; empty for another backbone."""
        is_timm = self.settings.get("type") == "TimmBackbone"
        return str(self.settings.get("model_name", "")) if is_timm else ""

    @property
    def uses_hub(self) -> bool:
        """Whether the weights are those in the cache of timm's hub."""
        return bool(self.timm_model) and self.weights == "hub"


@dataclass(frozen=True)
class DecoderSpec:
    """The decoder: ``model.decode_head`` of an mmseg recipe, with inputs that fit the backbone."""

    name: str
    recipe: str
    channels: int = number(low=1)
    """Channels of its last feature map; D of an embedding without projection."""
    in_index: tuple[int, ...] = (0, 1, 2, 3)
    """Indices of the feature maps of the backbone that are its inputs."""
    dropout: float = number(0.1, low=0, high=1)
    """Spatial dropout before the classifier (mmseg: 0.1)."""
    auxiliary: bool = False
    """Keep the recipe's auxiliary head during training."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the decode head of the recipe."""
    align_corners: bool | None = added(None)
    """Whether maps and scores are resized with aligned corners (released: true); None for the
    recipe's value (mmseg: false)."""


@dataclass(frozen=True)
class DatasetSpec:
    """A folder of images and label maps; `protoseg data check` verifies it."""

    name: str
    digest: str
    """Digest of the whole folder, as `protoseg data check` prints it, or ``unpinned``."""
    classes: tuple[str, ...] = items(distinct=True)
    images: str = "images/{split}"
    """Folder of the images, or a pattern of their paths with ``{name}``, see
    `protoseg.datasets.pairing.file_patterns`."""
    annotations: str = "annotations/{split}"
    image_suffix: str = ".jpg"
    annotation_suffix: str = ".png"
    ignore_index: int = number(255, low=0, high=HIGHEST_LABEL)
    """Label value of ignored pixels; above 255 only in 16-bit label maps (PNG)."""
    reduce_zero_label: bool = False
    """Label 0 is "other" and ignored; classes start at 1 (ADE20K)."""
    train_split: str = "train"
    counts: dict[str, int] = field(default_factory=dict)
    """Number of images per split; empty if unknown."""
    generator: dict[str, Any] = field(default_factory=dict)
    """Arguments of the generator, for data that protoseg generates."""
    folder: str = added("")
    """Folder in the data folder; empty for ``name``. Several data sets may share one."""
    labels: tuple[int, ...] = added((), low=0, high=HIGHEST_LABEL)
    """Label value of each class in the files; empty for 0, 1, 2, ... (or 1, 2, ... with
    ``reduce_zero_label``)."""
    label_count: int = added(0, low=0, high=HIGHEST_LABEL + 1)
    """Number of label values in the files, from 0; values without a class are ignored. 0 for the
    values of the classes only."""
    image_labels: str = added("")
    """Image-level labels for the task ``weak``: one list file per class, with ``{class}`` in the
    file name. As in PASCAL VOC, a line has the name of an image and 1, 0 or -1. Empty to derive
    the labels from label maps."""
    ignore: tuple[int, ...] = added((), low=0, high=HIGHEST_LABEL)
    """Further label values that are ignored, besides ``ignore_index``."""
    image_label_share: float = added(0.0, low=0, high=1)
    """Share of an image's pixels that a class needs to count as present; 0 for one pixel."""
    class_weights: tuple[float, ...] = added((), low=0)
    """Weight of each class in L_CE; used, and part of the identity, only by a run with
    ``class_weights=dataset``."""
    palette: dict[str, Any] = added({})  # noqa: RUF009  a new one for each spec
    """Colours of colour-coded label maps: name of a class -> [red, green, blue] or a list of these;
    ``ignore`` -> ignored colours. The numbers of the classes are their order in ``classes``."""
    split_files: dict[str, str] = added({})  # noqa: RUF009  a new one for each spec
    """List file of each split, relative to the folder of the data set; empty for all files in the
    folders. A line names an image, see `protoseg.datasets.pairing.split_lists`."""
    image_suffixes: tuple[str, ...] = added(())
    """Suffixes of images, if there are several; ``image_suffix`` is then unused."""
    annotation_suffixes: tuple[str, ...] = added(())
    """Suffixes of label maps, if there are several; ``annotation_suffix`` is then unused."""
    hierarchy: tuple[tuple[str, ...], ...] = added((), in_yaml=Any)
    """Path of each class in a tree of classes, highest group first. In YAML also the name of a file
    in ``hierarchy``, or a tree. Part of the identity only of a method that uses it."""
    flip_pairs: tuple[tuple[str, str], ...] = added(())
    """Pairs of classes that a mirror image exchanges, e.g. left and right arm. Mirrored label maps
    and scores swap them. Neither the order of the pairs nor that in a pair changes the identity."""

    def __post_init__(self) -> None:
        names = [name for pair in self.flip_pairs for name in pair]
        for name in names:
            if name not in self.classes:
                raise UsageError(
                    describe_unknown_name("class", name, "dataset.flip_pairs", self.classes)
                )
            if names.count(name) > 1:
                raise UsageError(
                    f"dataset.flip_pairs: '{name}' occurs {names.count(name)} times. Name each "
                    "class once, with the one that a mirror image makes of it."
                )
        number = self.classes.index
        pairs = (tuple(sorted(pair, key=number)) for pair in self.flip_pairs)
        ordered = tuple(sorted(pairs, key=lambda pair: number(pair[0])))
        object.__setattr__(self, "flip_pairs", ordered)

    @property
    def place(self) -> str:
        """Name of the folder in the data folder."""
        return self.folder or self.name

    @property
    def label_values(self) -> Sequence[int]:
        """Label value of each class in the files."""
        first = int(self.reduce_zero_label)
        return self.labels or range(first, first + len(self.classes))


@dataclass(frozen=True)
class AugmentationSpec:
    """Augmentation in training, in mmseg's order: resize, crop, flip, photometric distortion."""

    scale: tuple[int, int] = number(low=1)
    """Base (width, height); mmseg's RandomResize multiplies it by the random ratio."""
    crop_size: tuple[int, int] = number(low=1)
    """(height, width) in pixels."""
    ratio_range: tuple[float, float] = number((0.5, 2.0), low=0, open_low=True)
    """[smallest, largest] random ratio."""
    cat_max_ratio: float = number(0.75, low=0, high=1)
    """A crop is drawn again if one class covers more than this share of it."""
    flip: float = number(0.5, low=0, high=1)
    """Probability of a horizontal flip."""
    photometric: bool = True
    pipeline: tuple[dict[str, Any], ...] = added(())
    """Transforms of mmseg by name, between loading and packing, instead of all of the above but
    ``crop_size``, the size to which images of a batch are padded."""

    def __post_init__(self) -> None:
        if self.pipeline:  # values that are not used give no other id
            unused = {"scale": (1, 1), "ratio_range": (0.5, 2.0), "cat_max_ratio": 0.75}
            for name, value in {**unused, "flip": 0.5, "photometric": True}.items():
                object.__setattr__(self, name, value)


@dataclass(frozen=True)
class EvaluationSpec:
    """The evaluation protocol: single scale, no flip, no other test-time augmentation.

    Pseudo-masks use the scales and the flip of `WeakContrastMethod`.
    """

    split: str = "val"
    """A split of the data set, or ``holdout`` for the images that `holdout` takes from training."""
    mode: Literal["whole", "slide"] = "whole"
    scale: tuple[int, ...] = size()
    """(width, height) of the resized images, at the same aspect ratio; empty for no resize."""
    crop_size: tuple[int, ...] = size()
    """(height, width) of the sliding window."""
    stride: tuple[int, ...] = size()
    """(height, width) of the steps of the sliding window."""
    holdout: HoldoutSpec = added(HoldoutSpec())  # noqa: RUF009  frozen
    """Images of the training split that are not trained on, for ``split=holdout``."""
    every: int = added(0, low=0)
    """Iterations between two evaluations on the way, for learning curves; 0 for the end alone. They
    change no weight, but the record: a run with them is another run (docs/matrices.md)."""

    def select_split(self, split: str) -> EvaluationSpec:
        """Return the same evaluation at the end alone, of all images of another split."""
        return replace(self, split=split, holdout=HoldoutSpec(), every=0)


@dataclass(frozen=True)
class RunSpec:
    """One training run with all settings. Its identity is the digest of its canonical JSON."""

    backbone: BackboneSpec
    decoder: DecoderSpec
    method: MethodSpec
    dataset: DatasetSpec
    augmentation: AugmentationSpec
    schedule: ScheduleSpec
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    seed: int = number(0, low=0, high=2**31 - 1)
    determinism: Literal["bitwise", "seeded"] = added("seeded")
    """``seeded``: the same seeds and order of the data. ``bitwise``: also the same bits on all
    devices of one model, by kernels with a fixed order of summation and without TF32. See
    docs/reproducibility.md."""
    contrast: ContrastSpec = added(ContrastSpec())  # noqa: RUF009  frozen
    class_weights: Literal["none", "dataset"] = added("none")
    """``dataset``: L_CE weighs each class by the data set's ``class_weights``."""
    init_from: str = added("")
    """Checkpoint of a whole network, a file in the weights folder, from which the run starts
    (mmseg: ``load_from``)."""
    init_from_sha256: str = added("")
    """SHA-256 of that file, or its first digits, checked before training; empty accepts any."""
    init_from_skip: tuple[str, ...] = added(())
    """Beginnings of keys of the network that keep their initial values."""
    plugin_version: int = added(1, low=1)
    """Version of the code of your own classes; increase it to train their runs again."""
    recipes: dict[str, Any] = added({})  # noqa: RUF009  a factory
    """Values of the recipes that are not those of the locked mmseg, by ``backbone``, ``decoder``
    and ``schedule``; `protoseg.config.recipes.resolver` sets it."""
    method_version: int = METHOD_VERSION

    def __post_init__(self) -> None:
        if self.dataset.hierarchy and not self.method.needs_hierarchy:
            object.__setattr__(self, "dataset", replace(self.dataset, hierarchy=()))
        weights, classes = self.dataset.class_weights, self.dataset.classes
        if self.class_weights == "none" and weights:
            # Weights that are not used must not give the run another id.
            object.__setattr__(self, "dataset", replace(self.dataset, class_weights=()))
        elif weights and len(weights) != len(classes):
            raise UsageError(
                f"dataset.class_weights: {self.dataset.name} has {len(classes)} classes, but "
                f"{len(weights)} weights. Give one weight per class, in their order."
            )
