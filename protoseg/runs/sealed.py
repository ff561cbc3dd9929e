"""Sealed JSON: files with a version, known keys and a digest, which are read strictly.

``digest`` is the SHA-256 of the canonical JSON of the other keys, so an edit by hand or a torn file
is detected. The records of runs, of choices and of evaluations have this form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError

RESTORE = "Restore it from a copy, or delete it and run the sweep again."
"""What to do about a damaged record."""
Shape = Mapping[str, type | tuple[type, ...]]


class RecordError(ProtosegError):
    """A record that is torn, edited, of another run, or of a newer schema."""


def digest(content: Mapping[str, Any]) -> str:
    """Compute the digest of a record, over all keys but ``digest``."""
    return hashlib.sha256(
        files.canonical_json({key: value for key, value in content.items() if key != "digest"})
    ).hexdigest()


@dataclass(frozen=True)
class SealedFormat:
    """The keys of one type of sealed JSON, and how it is sealed, read and written."""

    name: str
    """What it is, for messages: ``record``."""
    version: int
    keys: Shape
    """Key -> type; `digest` and ``schema_version`` are added."""
    optional: Shape = field(default_factory=dict)
    """Keys that may be absent."""

    def seal(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy with version and digest.

        Raises:
            ValueError: a key is missing, unknown, or of the wrong type.
        """
        sealed = {**content, "schema_version": self.version}
        sealed["digest"] = digest(sealed)
        problems = self._find_problems(sealed)
        if problems:
            raise ValueError(f"not a {self.name}: {'; '.join(problems)}")
        return sealed

    def read_file(self, path: Path) -> dict[str, Any]:
        """Read and check a file.

        Raises:
            FileNotFoundError: there is no file.
            RecordError: torn, edited, incomplete, or of a newer schema.
        """
        data, name = path.read_bytes(), self.name
        try:
            content = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path}: torn {name}, not valid JSON ({error}). {RESTORE}"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
            raise RecordError(f"{path}: not a {name} of protoseg (no schema_version).")
        version = content["schema_version"]
        if version > self.version:
            raise RecordError(
                f"{path}: {name} of schema {version}; this protoseg reads up to {self.version}. "
                f"Update protoseg; the {name} is kept."
            )
        problems = self._find_problems(content)
        if problems:
            raise RecordError(f"{path}: incomplete {name}: {'; '.join(problems)}.")
        try:
            is_unchanged = digest(content) == content["digest"]
        except ValueError:  # 1e999 is valid JSON but reads as infinity, which is not
            is_unchanged = False
        if not is_unchanged:
            raise RecordError(
                f"{path}: edited or damaged {name}, its content does not match its digest. "
                f"{RESTORE}"
            )
        return content

    def write_once(self, content: Mapping[str, Any], path: Path) -> bool:
        """Write sealed content; different content is never overwritten.

        Returns:
            Whether the file is new.

        Raises:
            RecordError: the file has other content.
        """
        files.make_folder(path.parent)
        if files.create_json(path, dict(content)):
            return True
        existing = self.read_file(path)
        if existing["digest"] != content["digest"]:
            raise RecordError(
                f"{path}: holds another {self.name} (digest {existing['digest'][:10]}, new "
                f"{content['digest'][:10]}); it is kept. Move it away to use the new one."
            )
        return False

    def _find_problems(self, content: Mapping[str, Any]) -> list[str]:
        needed = {**self.keys, "schema_version": int, "digest": str}
        shape = {**needed, **self.optional}
        problems = [f"'{key}' is missing" for key in needed if key not in content]
        problems += [f"'{key}' is unknown" for key in content if key not in shape]
        problems += [
            f"'{key}' is not of type {expected}"
            for key, expected in shape.items()
            if key in content and not isinstance(content[key], expected)
        ]
        return problems


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
