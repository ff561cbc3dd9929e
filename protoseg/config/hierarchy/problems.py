"""Finds runs whose method needs a tree of classes that the data set does not have."""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.schema import RunSpec


def find_hierarchy_problems(spec: RunSpec) -> Iterator[str]:
    """Yield a sentence for a method that needs a tree, without one."""
    if spec.method.needs_hierarchy and not spec.dataset.hierarchy:
        yield (
            f"method.kind: {spec.method.kind} needs a tree of classes, and {spec.dataset.name} has "
            "none. Set dataset.hierarchy to a file of experiments/hierarchy."
        )
