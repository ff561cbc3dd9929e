"""What a run takes from the recipe of each role: from its spec, or from the locked recipes."""

from __future__ import annotations

from typing import Any

from protoseg.config.recipes import locked
from protoseg.config.recipes.sections import SECTIONS, NotTakenError, restore_tuples
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError

ROLE_KEYS = {role: f"{role}.recipe" for role in SECTIONS}
"""Role -> field of the spec that names its recipe."""


def read_values(spec: RunSpec, role: str) -> dict[str, Any]:
    """Read what a run takes from the recipe of a role; the copy may be changed.

    Args:
        role: ``backbone``, ``decoder`` or ``schedule``.

    Returns:
        Section -> values, as `protoseg.config.recipes.sections.take_values` makes them, with
        tuples.

    Raises:
        UsageError: the spec names a recipe without its values, or one that cannot have the role.
    """
    if role in spec.recipes:
        values: dict[str, Any] = restore_tuples(spec.recipes[role])
        return values
    name = getattr(spec, role).recipe
    if not locked.is_locked(name):
        version = locked.read_table()["version"]
        raise UsageError(
            f"{ROLE_KEYS[role]}: {name} is no recipe of mmseg {version}, and the spec has no "
            "values of it. Another version of protoseg planned this run: plan it again."
        )
    return read_locked_values(role, name)


def read_locked_values(role: str, name: str, where: str = "") -> dict[str, Any]:
    """Read what a run takes from a locked recipe.

    Raises:
        UsageError: the recipe cannot have this role.
    """
    try:
        values: dict[str, Any] = restore_tuples(locked.read_sections(role, name))
        return values
    except NotTakenError as error:
        raise UsageError(describe_not_taken(role, name, str(error), where)) from error


def describe_not_taken(role: str, name: str, reason: str, where: str = "") -> str:
    """Make the message for a recipe that cannot have a role."""
    prefix = f"{where}: " if where else ""
    return f"{prefix}{ROLE_KEYS[role]}: {name} {reason}. Name another recipe."
