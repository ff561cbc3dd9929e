"""Declares the settings of each method and of pixel contrast; both are parts of a `RunSpec`.

A new method is a dataclass here and a head in `protoseg.models`, or both in another package
(docs/your_method.md). The docstring of each field names the source of its default, as in
`protoseg.config.schema`; "assumption" marks a value without a source.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from protoseg.config.fields import added, number
from protoseg.errors import UsageError


@dataclass(frozen=True)
class MethodSpec:
    """Base of all methods: how pixels are classified. ``kind`` selects the subclass.

    All fields of a subclass except ``kind`` are the arguments of its head.
    """

    variants: ClassVar[dict[str, type[MethodSpec]]] = {}
    head: ClassVar[str]
    """Name of the head in mmseg's registry, or its full name."""
    task: ClassVar[Literal["segmentation", "weak"]] = "segmentation"
    """Supervision: label maps (``segmentation``) or image-level labels (``weak``)."""
    segmentor: ClassVar[str] = "EncoderDecoder"
    """Name of the network around the head in mmseg's registry, or its full name."""
    needs_hierarchy: ClassVar[bool] = False
    """Whether the head has an argument ``hierarchy``, the paths of ``dataset.hierarchy``."""
    kind: str
    """Short name of the method; in another package, the full name of the class."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int | None:
        """Count the learnable parameters of the classifier.

        Args:
            num_classes: C, or the number of nodes of a tree.
            channels: D, size of the feature vector of a pixel.

        Returns:
            The count, or None if the method does not know D.
        """
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared, full_name = cls.__dict__.get("kind"), f"{cls.__module__}.{cls.__qualname__}"
        if declared != full_name and not full_name.startswith("protoseg."):
            # A worker imports the class by its full name. A short name could also replace a
            # method of protoseg.
            raise UsageError(
                f'{full_name}: kind must be the full name of the class; write kind: str = "'
                f'{full_name}" in it.'
            )
        MethodSpec.variants[cls.__dict__["kind"]] = cls


@dataclass(frozen=True)
class ParametricMethod(MethodSpec):
    """A learned 1×1 classifier (Eq. 1). With K > 1, a class scores the best of its K weights."""

    head: ClassVar[str] = "ParametricHead"
    kind: str = "parametric"
    num_prototypes: int = number(1, low=1)
    """K, weight vectors per class."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """Count K·C·(D + 1) parameters."""
        return self.num_prototypes * num_classes * (channels + 1)


@dataclass(frozen=True)
class PixelQueryMethod(MethodSpec):
    """Learned queries and cosine scores on the decoder's features (Eq. 2)."""

    head: ClassVar[str] = "PixelQueryHead"
    kind: str = "pixel_query"
    num_prototypes: int = number(1, low=1)
    """K, queries per class; the best one is the class score (Eq. 2: one)."""
    temperature: float = number(1.0, low=0, open_low=True)
    """Divides the cosines before the softmax; the initial value if learnable (Eq. 2: none, i.e.
    1)."""
    learnable_temperature: bool = False
    """Learn the temperature as one more parameter (Eq. 2: no)."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """Count K·C·D parameters, plus one for a learnable temperature."""
        return self.num_prototypes * num_classes * channels + self.learnable_temperature


@dataclass(frozen=True)
class QueryDecoderMethod(MethodSpec):
    """Learned queries in a transformer: mmseg's Segmenter decoder (``decoder=segmenter``)."""

    head: ClassVar[str] = "QueryDecoderHead"
    kind: str = "query_decoder"
    num_prototypes: int = number(1, low=1)
    """K, queries per class; the best one is the class score (mmseg: one)."""


@dataclass(frozen=True)
class PrototypeMethod(MethodSpec):
    """Nonparametric classification by K prototypes per class (ProtoSeg, Eq. 5-14)."""

    head: ClassVar[str] = "PrototypeHead"
    kind: str = "prototype"
    num_prototypes: int = number(10, low=1)
    """K (paper, 5.4). With K = 1 the prototype is the class mean by ground truth, no clustering."""
    momentum: float = number(0.999, low=0, high=1)
    """μ of Eq. 14 (paper, 5.4)."""
    distance: Literal["cosine", "euclidean", "huber"] = "cosine"
    """<i, p> (paper, Table 5d)."""
    huber_delta: float = number(0.1, low=0, open_low=True)
    """δ of the pseudo-Huber norm (assumption: our copy of the paper lost form and value)."""
    kappa: float = number(0.05, low=0, open_low=True)
    """κ, entropy weight of the transport (Eq. 9; the authors' default)."""
    sinkhorn_iterations: int = number(3, low=1)
    """Sinkhorn-Knopp iterations (the usual number; our copy of the paper has "few")."""
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
    """τ of L_PPC (Eq. 11; the authors' default. Their loss ignores it, which equals τ = 1)."""
    score_temperature: float = number(1.0, low=0, open_low=True)
    """Temperature of the class scores in L_CE (Eq. 6; paper: none, i.e. 1)."""
    score_norm: Literal["none", "layer"] = "none"
    """LayerNorm over the C class scores before the softmax (released)."""
    projection: Literal[False, True, "none", "conv", "conv_no_norm", "released"] = False
    """Layers before the embedding is normalised. ``none`` (or false), the paper's. ``conv`` (or
    true): 1×1 convolution, BatchNorm, ReLU, 1×1 convolution. ``conv_no_norm``: without the
    BatchNorm. ``released``: without it, and then L2 over the width of the map (released)."""
    embedding_norm: Literal["none", "layer"] = "none"
    """LayerNorm over the D channels of the embedding (released)."""
    init: Literal["normal", "pixels"] = "normal"
    """Initial prototypes: truncated normal, or pixels from the first batch that has the class."""
    init_std: float = number(0.02, low=0, open_low=True)
    """Standard deviation of the truncated normal (released)."""
    init_bounds: Literal["two_std", "two"] = added("two_std")
    """Where the normal is cut: at ± two standard deviations, or at ± 2 as timm's default does,
    which with `init_std` is practically never (released)."""
    distributed: Literal["pooled", "averaged"] = "pooled"
    """With several processes: cluster all pixels together, or cluster the pixels of each process
    and average the prototypes (released)."""
    loss_reduction: Literal["global_mean", "per_process_mean"] = added("global_mean")
    """With several processes: the losses are means over the pixels of all processes, or the mean
    of each process's mean, in which a pixel weighs more where fewer are labelled (released)."""

    def __post_init__(self) -> None:
        # The names of the two values that specs recorded as booleans.
        names = {"none": False, "conv": True}
        object.__setattr__(self, "projection", names.get(str(self.projection), self.projection))

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """Count zero: prototypes are not learned by gradient descent."""
        return 0


@dataclass(frozen=True)
class WeakContrastMethod(MethodSpec):
    """Weak supervision: a CAM network with pixel-to-prototype contrast on its maps.

    With all parts off it is the plain CAM network. The first class of the data set is the
    background. Sources: "notes" is our description of *Weakly Supervised Semantic Segmentation by
    Pixel-to-Prototype Contrast*, "released" its authors' code.
    """

    head: ClassVar[str] = "CamHead"
    task: ClassVar[Literal["segmentation", "weak"]] = "weak"
    segmentor: ClassVar[str] = "CamNetwork"
    kind: str = "weak_contrast"
    second_view: bool = True
    """Classify a second, scaled view T of each image beside S; the cross-view losses need it."""
    view_scale: float = number(0.5, low=0, high=1, open_low=True)
    """A, scale of the second view (notes: scaling; the value is an assumption)."""
    cross_prototype: bool = True
    """L_cp: pixels and labels of one view, prototypes of the other (notes)."""
    cross_cam: bool = True
    """L_cc: pixels and prototypes of one view, labels of the other (notes)."""
    intra: bool = True
    """L_intra: pixels, labels and prototypes of one view (notes)."""
    prototype_mining: bool = True
    """Semi-hard negatives in L_intra (notes)."""
    pixel_sampling: bool = True
    """Hard pixel sampling in L_intra (notes)."""
    cross_weight: float = number(0.05, low=0, open_low=True)
    """α (a default of the released code; its scripts pass 0.1)."""
    intra_weight: float = number(0.05, low=0, open_low=True)
    """β (as α)."""
    top_pixels: int = number(32, low=1)
    """K, pixels that make up a prototype (notes)."""
    hardest: float = number(0.6, low=0, high=1, open_low=True)
    """Share of the negatives that are hard (notes)."""
    drawn: float = number(0.5, low=0, high=1, open_low=True)
    """Share of the hard negatives that is sampled (notes)."""
    temperature: float = number(0.1, low=0, open_low=True)
    """τ (released)."""
    channels: int = number(128, low=1)
    """D of the projection (released)."""
    unit_prototypes: bool = True
    """L2-normalise the prototypes (released; the formula in the notes does not)."""
    threshold: float = number(0.2, low=0, high=1)
    """Pseudo-labels are background where all maps are below this value (released, on SEAM)."""
    scales: tuple[float, ...] = field(
        default=(0.5, 1.0, 1.5, 2.0), metadata={"low": 0, "open_low": True, "nonempty": True}
    )
    """Image scales whose maps are summed in evaluation (assumption: the usual values)."""
    flip: bool = True
    """Also sum the maps of the flipped images (usual)."""
    prototype_features: Literal["unit", "raw"] = added("unit")
    """``raw``: prototypes are means of the projected features before L2 (released)."""
    prototype_images: Literal["labelled", "all"] = added("labelled")
    """Images whose pixels can be a prototype's: those with the class, or all (released)."""
    mining_rule: Literal["semi_hard", "by_rank"] = added("semi_hard")
    """``by_rank``: the 4th to 13th most similar prototypes, the pixel's own included (released)."""
    sampling_rule: Literal["hardest", "after_hardest"] = added("hardest")
    """``after_hardest``: leave out the hardest tenth of the pixels of a class (released)."""
    intra_mean: Literal["pixels", "classes"] = added("pixels")
    """L_intra: mean over pixels, or over means of classes, 0 for a class of one (released)."""
    projection_bias: bool = added(True)
    """Whether the projection has a bias (released: no)."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """Count (C - 1)·D parameters: the background is not classified, and there is no bias."""
        return (num_classes - 1) * channels


@dataclass(frozen=True)
class ContrastSpec:
    """Pixel contrast across images on top of a method (ContrastiveSeg). Weight 0 turns it off.

    Sources: "notes" is our description of the method, "released" the authors' configuration for
    CamVid with memory.
    """

    weight: float = number(0.0, low=0)
    """λ, weight of L_NCE (released: 0.1)."""
    channels: int = number(256, low=1)
    """D of the projection, two 1×1 convolutions (notes)."""
    temperature: float = number(0.1, low=0, open_low=True)
    """τ (notes; released: 0.07)."""
    anchors: int = number(1024, low=1)
    """Anchors per batch, over all processes (released: ``max_samples``)."""
    positives: int = number(1024, low=1)
    """Maximum number of positive samples per anchor (assumption)."""
    negatives: int = number(2048, low=1)
    """Maximum number of negative samples per anchor (assumption)."""
    selection: Literal["hard", "random"] = "hard"
    """How anchors and samples are selected: half by hardness and half at random (notes), or all
    at random."""
    pixel_queue: int = number(5000, low=0)
    """Pixel embeddings stored per class (released: ``memory_size``); 0 turns the queue off."""
    region_queue: int = number(5000, low=0)
    """Region embeddings stored per class (released: ``memory_size``); 0 turns the queue off."""
    pixels_per_image: int = number(10, low=1)
    """Pixels of a class that an image adds to the queue (released: ``pixel_update_freq``)."""
    memory_contrast: Literal["sampled", "all"] = added("sampled")
    """Samples chosen from batch and memory, or every entry of the memory alone (released)."""
    memory_start: Literal["empty", "random"] = added("empty")
    """``random``: random unit vectors, which count as entries at once (released)."""
    warmup_iterations: int = added(0, low=0)
    """Iterations with weight 0 while the memory fills (released: 3,000; Cityscapes 5,000)."""
    anchor_sampling: Literal["per_class", "per_pair"] = added("per_class")
    """Anchors evenly over classes, or over (image, class) pairs of more than ``max_views`` pixels
    (released)."""
    max_views: int = added(100, low=1)
    """Maximum number of anchors of a pair (released: 100; with memory on Cityscapes 1)."""
    sample_gradient: bool = added(False)
    """Without memory: whether samples of the batch get a gradient, as anchors do (released)."""
    base_temperature: float = added(0.0, low=0)
    """The loss is multiplied by τ / this value (released: 0.07); 0 for no factor."""
    projection_input: Literal["decoder", "backbone"] = added("decoder")
    """Features of the projection: the decoder's last ones, or the concatenated maps of the backbone
    (released)."""
    slips: tuple[
        Literal[
            "class_zero_absent", "permutation_of_image", "pointer_by_one", "labels_at_half_size"
        ],
        ...,
    ] = added(())
    """Errors of the released code, see `protoseg.core.memory_bank_slips`."""

    def __post_init__(self) -> None:
        # The order must not give the run another id.
        object.__setattr__(self, "slips", tuple(sorted(set(self.slips))))
        if not self.weight:  # without the loss, its settings must not give the run another id
            for field_ in fields(self):
                object.__setattr__(self, field_.name, field_.default)
