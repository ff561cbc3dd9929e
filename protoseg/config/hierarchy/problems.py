"""Finds values that do not fit a method with a tree of classes."""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.hierarchy.methods import HierarchicalMethod
from protoseg.config.schema import RunSpec

UNUSED = ("loss_decode", "sampler")
"""Keys of a decode head that act on its own loss."""


def find_hierarchy_problems(spec: RunSpec) -> Iterator[str]:
    """Yield a sentence for a missing tree, and for each value that has no effect."""
    if spec.method.needs_hierarchy and not spec.dataset.hierarchy:
        yield (
            f"method.kind: {spec.method.kind} needs a tree of classes, and {spec.dataset.name} has "
            "none. Set dataset.hierarchy to a file of experiments/hierarchy."
        )
    if not isinstance(spec.method, HierarchicalMethod):
        return
    name = spec.method.kind
    if spec.class_weights == "dataset":
        yield (
            f"class_weights=dataset: has no effect, because the losses of {name} have no class "
            "weights. Set class_weights=none."
        )
    for key in UNUSED:
        if key in spec.decoder.settings:
            yield (
                f"decoder.settings.{key}: has no effect, because {name} replaces the loss of the "
                "decode head. Remove it."
            )
