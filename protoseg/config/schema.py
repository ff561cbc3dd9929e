"""What one training run is: `RunSpec` and its parts, every default written out.

A field belongs here when it changes the result of the run, and only then: paths, the number of
loader workers, the cluster and the launcher live elsewhere. Sources of the defaults: "paper" is
*Rethinking Semantic Segmentation: A Prototype View*; "released" its authors' code; "mmseg" the
recipe files shipped with MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from protoseg.config.fields import added, items, number, size
from protoseg.config.methods import ContrastSpec, MethodSpec
from protoseg.config.weak import WeakContrastMethod  # noqa: F401  one more kind of method

METHOD_VERSION = 1
"""Raised when a change of the code changes what a spec trains to; history in docs/design.md."""

HIGHEST_LABEL = 2**16 - 1
"""Of a label map of 16 bits."""


@dataclass(frozen=True)
class BackboneSpec:
    """The encoder: ``model.backbone`` of an mmseg recipe, and the weights it starts from."""

    name: str
    recipe: str
    """mmseg config file, relative to its configs folder, whose ``model.backbone`` is taken."""
    channels: tuple[int, ...] = items()
    """Channels of each feature map the backbone returns; the decoder's input sizes follow."""
    weights: str = ""
    """File name inside the weights folder; empty starts from random weights."""
    weights_sha256: str = ""
    """SHA-256 of that file, or its first digits; checked before training, empty accepts any."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the recipe's backbone."""

    def __post_init__(self) -> None:
        if not self.weights:  # without a file there is no digest of it
            object.__setattr__(self, "weights_sha256", "")


@dataclass(frozen=True)
class DecoderSpec:
    """The decoder: ``model.decode_head`` of an mmseg recipe, its inputs fitted to the backbone."""

    name: str
    recipe: str
    channels: int = number(low=1)
    """Channels of its last feature map, D for an embedding without projection."""
    in_index: tuple[int, ...] = (0, 1, 2, 3)
    """Which feature maps of the backbone it reads."""
    dropout: float = number(0.1, low=0, high=1)
    """Spatial dropout before the classifier (mmseg: 0.1)."""
    auxiliary: bool = False
    """Keep the recipe's auxiliary head during training."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the recipe's decode head."""


@dataclass(frozen=True)
class DatasetSpec:
    """A folder of images and label maps; `protoseg data check` verifies one."""

    name: str
    digest: str
    """Digest of the whole folder as `protoseg data check` prints it, or ``unpinned``."""
    classes: tuple[str, ...] = items(distinct=True)
    images: str = "images/{split}"
    annotations: str = "annotations/{split}"
    image_suffix: str = ".jpg"
    annotation_suffix: str = ".png"
    ignore_index: int = number(255, low=0, high=HIGHEST_LABEL)
    """Label value that counts for nothing; above 255 in label maps of 16 bits (PNG)."""
    reduce_zero_label: bool = False
    """Label 0 is 'other' and ignored; classes start at 1 (ADE20K)."""
    train_split: str = "train"
    counts: dict[str, int] = field(default_factory=dict)
    """Images in each split; empty where it is not known."""
    generator: dict[str, Any] = field(default_factory=dict)
    """For data made by the program: the arguments of its generator."""
    folder: str = added("")
    """Folder below the data folder; empty: the name. Data sets may share one."""
    labels: tuple[int, ...] = added((), low=0, high=HIGHEST_LABEL)
    """Label value of each class in the files; empty: 0, 1, 2, ... (see ``reduce_zero_label``)."""
    label_count: int = added(0, low=0, high=HIGHEST_LABEL + 1)
    """Label values that the files use, from 0: those of no class are ignored. 0: the classes'."""
    image_labels: str = added("")
    """For the task ``weak``: the list of each class, with ``{class}`` in its name, as PASCAL VOC
    has them (a line an image: name and 1, 0 or -1). Empty: image-level labels from label maps."""
    image_label_share: float = added(0.0, low=0, high=1)
    """Share of an image's pixels from which a class of its label map counts as present; 0: one."""

    @property
    def place(self) -> str:
        """The folder below the data folder."""
        return self.folder or self.name

    @property
    def label_values(self) -> Sequence[int]:
        """The label value of each class in the files."""
        first = int(self.reduce_zero_label)
        return self.labels or range(first, first + len(self.classes))


@dataclass(frozen=True)
class AugmentationSpec:
    """Training-time augmentation, in mmseg's order: resize, crop, flip, photometric distortion."""

    scale: tuple[int, int] = number(low=1)
    """Base (width, height) that the random ratio multiplies, as mmseg's RandomResize takes it."""
    crop_size: tuple[int, int] = number(low=1)
    """(height, width)."""
    ratio_range: tuple[float, float] = number((0.5, 2.0), low=0, open_low=True)
    cat_max_ratio: float = number(0.75, low=0, high=1)
    """A crop where one class covers more than this is drawn again."""
    flip: float = number(0.5, low=0, high=1)
    photometric: bool = True


@dataclass(frozen=True)
class ScheduleSpec:
    """Optimiser and learning rate: an mmseg recipe with the values that matter spelt out."""

    recipe: str
    """mmseg config file whose optimiser (``optim_wrapper``) is taken."""
    iterations: int = number(low=1)
    batch_size: int = number(low=1)
    """Images an iteration, over all processes together."""
    optimizer: Literal["AdamW", "SGD"] = "AdamW"
    learning_rate: float = number(6e-5, low=0, open_low=True)
    weight_decay: float = number(0.01, low=0)
    power: float = number(1.0, low=0)
    """Exponent of the polynomial decay."""
    min_lr: float = number(0.0, low=0)
    warmup_iterations: int = number(0, low=0)
    """Linear warm-up from 1e-6 of the learning rate."""
    head_lr_mult: float = number(1.0, low=0)
    """Learning-rate multiplier of the decode head."""


@dataclass(frozen=True)
class EvaluationSpec:
    """The evaluation protocol: single scale, no flip, no other test-time augmentation.

    Pseudo-masks have their own scales and flip: `WeakContrastMethod`.
    """

    split: str = "val"
    mode: Literal["whole", "slide"] = "whole"
    scale: tuple[int, ...] = size()
    """(width, height) that images are resized to, aspect kept; empty keeps their size."""
    crop_size: tuple[int, ...] = size()
    """(height, width) of the sliding window."""
    stride: tuple[int, ...] = size()


@dataclass(frozen=True)
class RunSpec:
    """One training run, fully resolved. Its identity is the digest of its canonical JSON."""

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
    """Same seeds and order (``seeded``), or also the same bits on any device of one kind
    (``bitwise``): kernels that sum in a fixed order, no TF32. See docs/reproducibility.md."""
    contrast: ContrastSpec = added(ContrastSpec())  # noqa: RUF009  frozen
    method_version: int = METHOD_VERSION
