"""Settings of the methods that use a tree of classes; both are parts of a `RunSpec`.

Sources: "paper" is *Deep Hierarchical Semantic Segmentation* (Li et al., CVPR 2022), of which our
notes have the loss formulas but not the tables; "released" its authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from protoseg.config.fields import number
from protoseg.config.methods import MethodSpec, PrototypeMethod


@dataclass(frozen=True)
class HierarchicalMethod(MethodSpec):
    """A learned 1×1 classifier with one sigmoid score for each node of the tree (HSSN)."""

    head: ClassVar[str] = "HierarchicalHead"
    needs_hierarchy: ClassVar[bool] = True
    kind: str = "hierarchical"
    tree_loss: Literal["sigmoid", "tree_min", "focal_tree_min"] = "focal_tree_min"
    """``tree_min``: L_TM, in which the worst violation of the tree counts. ``focal_tree_min``: the
    same, focal (paper; released: on the part data sets). ``sigmoid``: each node alone."""
    tree_weight: float = number(1.0, low=0)
    """Weight of the tree loss (paper; released: 5 on Cityscapes, 0.5 on the part data sets)."""
    focal_gamma: float = number(2.0, low=0)
    """γ of the focal loss (released)."""
    ce_weight: float = number(0.0, low=0)
    """Weight of the softmax cross-entropies, one for each level (released: 1)."""
    rmi_weight: float = number(0.0, low=0)
    """Weight of the region mutual information loss (released: 0.25 on the part data sets)."""
    triplet_weight: float = number(0.5, low=0)
    """Weight of the tree-triplet loss at the end of the training; it rises from 0 by a cosine
    (released)."""
    triplet_margin: float = number(0.1, low=0)
    """m_ε, constant part of the margin (released)."""
    triplet_tree_margin: float = number(1.0, low=0)
    """Factor of the part of the margin that grows with the tree distance, (ψ⁻ - ψ⁺) / 2L (released:
    1; the paper's factor is not in our notes)."""
    triplet_samples: int = number(200, low=1)
    """Maximum number of triplets of a class in a batch (released)."""
    triplet_sampling: Literal["random", "raster"] = "random"
    """Which pixels of a batch: random ones, or the first ones in raster order (released)."""
    triplet_channels: int = number(256, low=1)
    """D of the embedding for the triplets (released)."""
    inference: Literal["path", "leaf", "softmax"] = "path"
    """Score of a class: the sum of the sigmoid scores on its path (paper), its own sigmoid score,
    or the sum of a softmax over all nodes on its path (released)."""
    void: Literal["ignored", "class_zero"] = "ignored"
    """Ignored pixels are not trained, or are trained as the first class (released, by mistake)."""

    def __post_init__(self) -> None:
        # Values that are not used must not give the run another id.
        unused = [] if self.tree_loss == "focal_tree_min" else ["focal_gamma"]
        if not self.triplet_weight:
            unused += [f.name for f in fields(self) if f.name.startswith("triplet_")]
        for name in unused:
            default = 0.0 if name == "triplet_weight" else getattr(HierarchicalMethod, name)
            object.__setattr__(self, name, default)

    def classifier_parameters(self, num_classes: int, channels: int) -> int:
        """Count |V|·(D + 1) parameters."""
        return num_classes * (channels + 1)


@dataclass(frozen=True)
class PrototypeHierarchicalMethod(PrototypeMethod):
    """ProtoSeg with a cross-entropy on each level of the tree; ours, not from a paper.

    A node has all prototypes of the classes below it. Its score is the best of them (as Eq. 6).
    """

    head: ClassVar[str] = "PrototypeHierarchicalHead"
    needs_hierarchy: ClassVar[bool] = True
    kind: str = "prototype_hierarchical"
    level_weight: float = number(1.0, low=0)
    """Weight of the cross-entropy of each level above the classes."""
