"""Computes the identity of a run: canonical JSON, its SHA-256, and the run id made from both."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

from protoseg import files
from protoseg.config.fields import build, to_plain
from protoseg.config.plugins import resolve_method
from protoseg.config.schema import RunSpec

DIGITS = 10
"""Hex digits of the digest in a run id: 40 bits, about one collision among a million runs."""


def canonical_json(value: Any) -> str:
    """Serialise to JSON with sorted keys and no white space: equal values give equal bytes."""
    return files.canonical_json(to_plain(value, identity=True)).decode()


def spec_digest(spec: RunSpec) -> str:
    """Compute the SHA-256 of the canonical JSON of a spec, 64 hex digits."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def make_slug(spec: RunSpec) -> str:
    """Make the readable part of a run id. It uses only values that the digest covers."""
    num_prototypes = getattr(spec.method, "num_prototypes", None)
    parts = [
        spec.dataset.name,
        spec.backbone.name,
        spec.decoder.name,
        spec.method.kind.rpartition(".")[2],
        *([f"k{num_prototypes}"] if num_prototypes is not None else []),
        f"s{spec.seed}",
    ]
    # The id is the name of a folder and of a SLURM job: only letters, digits, '_' and '-'.
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(parts).lower()).strip("-")[:100]


def run_id(spec: RunSpec) -> str:
    """Make the run id: ``<slug>-<10 hex digits>``."""
    return f"{make_slug(spec)}-{spec_digest(spec)[:DIGITS]}"


@functools.cache
def run_id_pattern() -> re.Pattern[str]:
    """Return the pattern that every run id matches."""
    return re.compile(rf"[a-z0-9_-]+-[0-9a-f]{{{DIGITS}}}")


def read_spec(data: Any, where: str) -> RunSpec:
    """Build a spec from the plain data in a record or a run folder.

    Args:
        data: nested dictionaries, as `plain` makes them.
        where: place named in error messages.

    Raises:
        UsageError: the data is not a valid spec, or names a class that cannot be imported.
    """
    spec: RunSpec = build(RunSpec, data, where, resolve_method)
    return spec
