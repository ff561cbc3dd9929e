"""What one training run is: `RunSpec` and its parts, every default written out.

A field belongs here when it changes the result of the run, and only then: paths, the number of
loader workers, the cluster and the launcher live elsewhere. Sources of the defaults: "paper" is
*Rethinking Semantic Segmentation: A Prototype View*; "released" its authors' code; "mmseg" the
recipe files shipped with MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from protoseg.spec.fields import added, items, number, size

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
class MethodSpec:
    """How pixels are classified; the subclasses are the methods, told apart by ``kind``.

    The fields of a subclass, less ``kind``, are the arguments of its head.
    """

    variants: ClassVar[dict[str, type[MethodSpec]]] = {}
    head: ClassVar[str]
    """Registered name of the head in `protoseg.models`."""
    kind: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        MethodSpec.variants[cls.__dict__["kind"]] = cls


@dataclass(frozen=True)
class ParametricMethod(MethodSpec):
    """A learned 1×1 classifier (Eq. 1); with K > 1 a class scores the best of its K weights."""

    head: ClassVar[str] = "ParametricHead"
    kind: str = "parametric"
    num_prototypes: int = number(1, low=1)


@dataclass(frozen=True)
class PrototypeMethod(MethodSpec):
    """Nonparametric classification by K prototypes a class (ProtoSeg, Eq. 5-14)."""

    head: ClassVar[str] = "PrototypeHead"
    kind: str = "prototype"
    num_prototypes: int = number(10, low=1)
    """K (paper, 5.4). K = 1 is the class mean by ground truth, without clustering."""
    momentum: float = number(0.999, low=0, high=1)
    """μ of Eq. 14 (paper, 5.4)."""
    distance: Literal["cosine", "euclidean", "huber"] = "cosine"
    """<i, p> (paper, Table 5d)."""
    huber_delta: float = number(0.1, low=0, open_low=True)
    """δ of the pseudo-Huber norm: an assumption, our copy of the paper lost form and value."""
    kappa: float = number(0.05, low=0, open_low=True)
    """κ, entropy weight of the transport (Eq. 9; the authors' default)."""
    sinkhorn_iterations: int = number(3, low=1)
    """Sinkhorn-Knopp steps (paper: three)."""
    assignment: Literal["argmax", "gumbel"] = "argmax"
    """Which prototype a pixel updates: argmax of L (paper) or a hard Gumbel sample (released)."""
    update_pixels: Literal["all", "correct"] = "all"
    """Pixels that update prototypes: all of a class (paper), or the correct ones (released)."""
    ce_weight: float = number(1.0, low=0)
    """Weight of L_CE (Eq. 7)."""
    ppc_weight: float = number(0.01, low=0)
    """λ1, weight of L_PPC (Eq. 11; paper, Table 8)."""
    ppd_weight: float = number(0.01, low=0)
    """λ2, weight of L_PPD (Eq. 12; paper, Table 8; released: 0.001)."""
    temperature: float = number(0.1, low=0, open_low=True)
    """τ of L_PPC (Eq. 11; the authors' default; their code divides by nothing, that is 1)."""
    score_temperature: float = number(1.0, low=0, open_low=True)
    """Divides the class scores in L_CE (Eq. 6). The paper has none, that is 1."""
    score_norm: Literal["none", "layer"] = "none"
    """LayerNorm over the C class scores before the softmax (released)."""
    projection: bool = False
    """A two-layer 1×1 projection before the embedding is normalised (released)."""
    embedding_norm: Literal["none", "layer"] = "none"
    """LayerNorm over the D channels of the embedding (released)."""
    init: Literal["normal", "pixels"] = "normal"
    """How prototypes start: truncated normal, or pixels picked from the first batch of a class."""
    init_std: float = number(0.02, low=0, open_low=True)
    """Standard deviation of that truncated normal (released)."""
    distributed: Literal["pooled", "averaged"] = "pooled"
    """Several processes: cluster all pixels together, or each its own and average (released)."""


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
    """The evaluation protocol: single scale, no flip, no other test-time augmentation."""

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
    method_version: int = METHOD_VERSION
