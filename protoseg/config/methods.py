"""The methods: how pixels are classified, and what may be learned besides; parts of a `RunSpec`.

A new method is a dataclass here and a head in `protoseg.models`; nothing else names it. Or both lie
in a package of someone else's (docs/your_method.md). Sources of the defaults are given as in
`protoseg.config.schema`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from protoseg.config.fields import number
from protoseg.errors import UsageError


@dataclass(frozen=True)
class MethodSpec:
    """How pixels are classified; the subclasses are the methods, told apart by ``kind``.

    The fields of a subclass, less ``kind``, are the arguments of its head.
    """

    variants: ClassVar[dict[str, type[MethodSpec]]] = {}
    head: ClassVar[str]
    """Name by which mmseg's registry knows the head, or its full name."""
    task: ClassVar[Literal["segmentation", "weak"]] = "segmentation"
    """What is learned from: label maps, or image-level labels (see `protoseg.config.weak`)."""
    segmentor: ClassVar[str] = "EncoderDecoder"
    """The same of the network around the head."""
    kind: str
    """A word, or outside of protoseg the full name of the class."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int | None:
        """Learnable numbers that tell C classes apart by D channels; None where D is not known."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind, full = cls.__dict__.get("kind"), f"{cls.__module__}.{cls.__qualname__}"
        if kind != full and not full.startswith("protoseg."):
            # By another name no worker would find it, and it could take the place of ours.
            raise UsageError(f'{full}: write kind: str = "{full}" in the class, its full name.')
        MethodSpec.variants[cls.__dict__["kind"]] = cls


@dataclass(frozen=True)
class ParametricMethod(MethodSpec):
    """A learned 1×1 classifier (Eq. 1); with K > 1 a class scores the best of its K weights."""

    head: ClassVar[str] = "ParametricHead"
    kind: str = "parametric"
    num_prototypes: int = number(1, low=1)

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """K·C·(D + 1)."""
        return self.num_prototypes * num_classes * (channels + 1)


@dataclass(frozen=True)
class PixelQueryMethod(MethodSpec):
    """Learned queries and cosine scores on the decoder's features (Eq. 2)."""

    head: ClassVar[str] = "PixelQueryHead"
    kind: str = "pixel_query"
    num_prototypes: int = number(1, low=1)
    """K, queries a class, of which the best counts (Eq. 2: one)."""
    temperature: float = number(1.0, low=0, open_low=True)
    """Divides the cosines before the softmax, or where it starts. Eq. 2 has none, that is 1."""
    learnable_temperature: bool = False
    """Learn the temperature, as one more parameter (Eq. 2: there is none)."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """K·C·D, and the temperature."""
        return self.num_prototypes * num_classes * channels + self.learnable_temperature


@dataclass(frozen=True)
class QueryDecoderMethod(MethodSpec):
    """Learned queries through a transformer: mmseg's Segmenter decoder (``decoder=segmenter``)."""

    head: ClassVar[str] = "QueryDecoderHead"
    kind: str = "query_decoder"
    num_prototypes: int = number(1, low=1)
    """K, queries a class, of which the best counts (mmseg: one)."""


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
    """Sinkhorn-Knopp steps (the usual number; our copy of the paper says "few")."""
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
    """τ of L_PPC (Eq. 11; the authors' default, which their loss does not use: that is 1)."""
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

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """None of it: prototypes are not learned."""
        return 0


@dataclass(frozen=True)
class ContrastSpec:
    """Pixel contrast across images on top of any method (ContrastiveSeg); off where weight is 0.

    Sources: "notes", our description of the method; "released", the authors' configuration for
    CamVid with memory.
    """

    weight: float = number(0.0, low=0)
    """λ, weight of L_NCE (released: 0.1)."""
    channels: int = number(256, low=1)
    """D of the projection, two 1×1 convolutions (notes)."""
    temperature: float = number(0.1, low=0, open_low=True)
    """τ (notes; released: 0.07)."""
    anchors: int = number(1024, low=1)
    """Anchors of a batch, over all processes together (released: ``max_samples``)."""
    positives: int = number(1024, low=1)
    """Positive samples of an anchor at most: an assumption, no source at hand gives it."""
    negatives: int = number(2048, low=1)
    """Negative samples of an anchor at most: an assumption, no source at hand gives it."""
    selection: Literal["hard", "random"] = "hard"
    """Anchors and samples: half by hardness and half by lot (notes), or all by lot."""
    pixel_queue: int = number(5000, low=0)
    """Pixel embeddings remembered a class (released: ``memory_size``); 0 for none."""
    region_queue: int = number(5000, low=0)
    """Region embeddings remembered a class (released: ``memory_size``); 0 for none."""
    pixels_per_image: int = number(10, low=1)
    """Pixels of a class that an image hands to its queue (released: ``pixel_update_freq``)."""

    def __post_init__(self) -> None:
        if not self.weight:  # without a loss its switches change nothing, and name no other run
            for field in fields(self):
                object.__setattr__(self, field.name, field.default)
