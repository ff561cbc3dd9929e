"""Learning from image-level labels alone: class activation maps, and contrast on them.

Sources of the defaults: "notes", our description of *Weakly Supervised Semantic Segmentation by
Pixel-to-Prototype Contrast*; "released", its authors' code; the rest are assumptions, said to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from protoseg.config.fields import number
from protoseg.config.methods import MethodSpec


@dataclass(frozen=True)
class WeakContrastMethod(MethodSpec):
    """A CAM network, and pixel-to-prototype contrast on its maps; all parts off leaves the network.

    The first class of the data set is the background. The fields are the arguments of the head.
    """

    head: ClassVar[str] = "CamHead"
    task: ClassVar[Literal["segmentation", "weak"]] = "weak"
    segmentor: ClassVar[str] = "CamNetwork"
    kind: str = "weak_contrast"
    second_view: bool = True
    """Classify a second, scaled view of each image too: T beside S, and what crosses them."""
    view_scale: float = number(0.5, low=0, high=1, open_low=True)
    """A: the scale of the second view (notes: scaling; the value is an assumption)."""
    cross_prototype: bool = True
    """L_cp: pixels and labels of one view, prototypes of the other (notes)."""
    cross_cam: bool = True
    """L_cc: pixels and prototypes of one view, labels of the other (notes)."""
    intra: bool = True
    """L_intra: within a view (notes)."""
    prototype_mining: bool = True
    """Semi-hard negatives in L_intra (notes)."""
    pixel_sampling: bool = True
    """Hard pixel sampling in L_intra (notes)."""
    cross_weight: float = number(0.05, low=0, open_low=True)
    """α (released)."""
    intra_weight: float = number(0.05, low=0, open_low=True)
    """β (released)."""
    top_pixels: int = number(32, low=1)
    """K, pixels behind a prototype (notes)."""
    hardest: float = number(0.6, low=0, high=1, open_low=True)
    """Share of the negatives that are hard (notes)."""
    drawn: float = number(0.5, low=0, high=1, open_low=True)
    """Share of the hard ones that is drawn (notes)."""
    temperature: float = number(0.1, low=0, open_low=True)
    """τ (released)."""
    channels: int = number(128, low=1)
    """D of the projection (released)."""
    unit_prototypes: bool = True
    """Divide prototypes by their length (released; the notes' formula does not)."""
    threshold: float = number(0.2, low=0, high=1)
    """Maps below it are background in pseudo-labels: an assumption (released: 0.05, on maps that
    other losses have widened)."""
    scales: tuple[float, ...] = field(
        default=(0.5, 1.0, 1.5, 2.0), metadata={"low": 0, "open_low": True, "nonempty": True}
    )
    """Of the images whose maps are added up in evaluation (usual values: an assumption)."""
    flip: bool = True
    """Also of the images flipped (usual)."""

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """(C - 1)·D: the background is not classified, and there is no bias."""
        return (num_classes - 1) * channels
