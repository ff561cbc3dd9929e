"""The identity of a run: canonical JSON, its SHA-256, and the readable name made from both."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

from protoseg import files
from protoseg.config.fields import build, plain
from protoseg.config.schema import RunSpec

DIGITS = 10
"""Hex digits of the digest in a run id: 40 bits, one clash expected among a million runs."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return files.canonical_json(plain(value, identity=True)).decode()


def spec_digest(spec: RunSpec) -> str:
    """SHA-256 of the canonical JSON of a spec, 64 hex digits."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def slug(spec: RunSpec) -> str:
    """The readable part of a run id; made only of what the digest covers too."""
    num_prototypes = getattr(spec.method, "num_prototypes", None)
    parts = [
        spec.dataset.name,
        spec.backbone.name,
        spec.decoder.name,
        spec.method.kind.rpartition(".")[2],
        *([f"k{num_prototypes}"] if num_prototypes is not None else []),
        f"s{spec.seed}",
    ]
    # The id names a folder and a scheduler job: nothing but letters, digits, '_' and '-'.
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(parts).lower()).strip("-")[:100]


def run_id(spec: RunSpec) -> str:
    """``<slug>-<10 hex digits>``."""
    return f"{slug(spec)}-{spec_digest(spec)[:DIGITS]}"


@functools.cache
def run_id_pattern() -> re.Pattern[str]:
    """What a run id looks like."""
    return re.compile(rf"[a-z0-9_-]+-[0-9a-f]{{{DIGITS}}}")


def spec_from_dict(data: Any, where: str) -> RunSpec:
    """Read a spec back from a record or a run directory."""
    spec: RunSpec = build(RunSpec, data, where)
    return spec
