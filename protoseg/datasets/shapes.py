"""The built-in data set `shapes`: made by the program, the same everywhere, nothing to download.

Besides images and annotations it keeps the true look of each pixel (``looks/SPLIT/NAME.png``), so
that one can ask whether the prototypes of a class found its looks. What is drawn: `drawing`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from protoseg.config.identity import canonical_json
from protoseg.datasets.shapes_drawing import GENERATOR_VERSION, Sample, draw
from protoseg.errors import DataError, UsageError, unknown
from protoseg.files import read_json, write_json

NAME = "shapes"
MARKER = "generator.json"
SPLITS = ("train", "val")
DEFAULTS = {"seed": 0, "size": 96, "train": 400, "val": 80}
LIMITS = {"seed": (0, 2**31 - 1), "size": (32, 1024), "train": (1, 99_999), "val": (1, 99_999)}
STALE_SECONDS = 3600
"""Age at which the remains of a killed generation are cleared away; one takes seconds."""


def arguments_of(generator: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of `generate` in a spec's ``dataset.generator``, defaults filled in.

    ``generator`` has ``name``, ``version`` (so that a spec's identity covers it) and arguments.

    Raises:
        UsageError: an unknown generator or argument, another version, a value out of range.
    """
    where = "dataset.generator"
    if generator.get("name") != NAME:
        raise UsageError(unknown("generator", str(generator.get("name")), f"{where}.name", [NAME]))
    if generator.get("version") != GENERATOR_VERSION:
        raise UsageError(
            f"{where}.version: found {generator.get('version')!r}, but this program makes version "
            f"{GENERATOR_VERSION}. Set it to {GENERATOR_VERSION}, or use the program's release "
            "that made the other one."
        )
    given = {key: value for key, value in generator.items() if key not in ("name", "version")}
    return _complete(given, where)


def generator_digest(generator: Mapping[str, Any]) -> str:
    """The digest of generated data: SHA-256 over generator, version and all arguments."""
    return marker_digest(_identity(arguments_of(generator)))


def marker_digest(marker: Mapping[str, Any]) -> str:
    """`generator_digest` of the data that a marker file describes."""
    identity = {key: marker[key] for key in ("name", "version", "arguments")}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def read_marker(root: Path) -> dict[str, Any] | None:
    """What ``generator.json`` says about a folder, or None where there is no valid one."""
    marker = read_json(root / MARKER)
    keys = {"name", "version", "arguments", "pixels"}
    return marker if isinstance(marker, dict) and keys <= marker.keys() else None


def generate(root: Path, **arguments: int) -> Path:
    """Make the data set in ``root`` unless it is there already; returns ``root``.

    It appears whole or not at all: everything is written beside ``root`` and renamed. Several
    processes may do this at once; one wins, the others find the same data.

    Args:
        root: the folder to make; an existing one with other content is never touched.
        arguments: ``seed``, ``size`` (pixels a side), ``train`` and ``val`` (images).

    Raises:
        DataError: the folder has other content, or can not be written.
        UsageError: an unknown argument or a value out of range.
    """
    complete = _complete(arguments, NAME)
    target = Path(os.path.realpath(root))
    if _is_there(target, complete):
        return root
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(target)
        temporary.mkdir()
        _write(temporary, complete)
        _move(temporary, target, complete)
    except OSError as error:
        raise DataError(
            f"{root}: the data set '{NAME}' can not be written ({error.strerror or error}). "
            "Put this right, or name another data folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def pixel_digest(image: np.ndarray, labels: np.ndarray) -> bytes:
    """SHA-256 of the pixels of one pair, whatever the compression of its files."""
    # A fixed width, so that the same labels count as the same in 8 and in 16 bits.
    return hashlib.sha256(image.tobytes() + labels.astype("<u2").tobytes()).digest()


def combined(digests: Iterable[bytes]) -> str:
    """One digest for pairs in order, 64 hex digits."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _complete(given: Mapping[str, Any], where: str) -> dict[str, int]:
    for key, value in given.items():
        if key not in DEFAULTS:
            raise UsageError(unknown("argument", key, where, DEFAULTS))
        low, high = LIMITS[key]
        if type(value) is not int or not low <= value <= high:
            raise UsageError(
                f"{where}.{key}: expected a whole number from {low} to {high}, found {value!r}."
            )
    return {**DEFAULTS, **given}


def _identity(arguments: Mapping[str, int]) -> dict[str, Any]:
    return {"name": NAME, "version": GENERATOR_VERSION, "arguments": dict(arguments)}


def _is_there(target: Path, arguments: Mapping[str, int]) -> bool:
    """Whether the folder holds this very data; False where nothing, or nothing in it, exists."""
    if not target.exists():
        return False
    if target.is_dir():
        marker = read_marker(target)
        if marker and marker_digest(marker) == marker_digest(_identity(arguments)):
            return True
        if not any(target.iterdir()):
            return False
    raise DataError(
        f"{target}: exists, but is not the data set '{NAME}' with these arguments. "
        "It is left as it is: move it away, or name another data folder."
    )


def _write(folder: Path, arguments: Mapping[str, int]) -> None:
    digests = []
    for number, split in enumerate(SPLITS):
        places = {kind: folder / kind / split for kind in ("images", "annotations", "looks")}
        for place in places.values():
            place.mkdir(parents=True)
        for index in range(arguments[split]):
            sample: Sample = draw(arguments["size"], arguments["seed"], number, index)
            name = f"{index:05}.png"
            Image.fromarray(sample.image).save(places["images"] / name)
            Image.fromarray(sample.labels).save(places["annotations"] / name)
            Image.fromarray(sample.looks).save(places["looks"] / name)
            digests.append(pixel_digest(sample.image, sample.labels))
    write_json(folder / MARKER, {**_identity(arguments), "pixels": combined(digests)})


def _move(temporary: Path, target: Path, arguments: Mapping[str, int]) -> None:
    try:
        # Renaming over a folder works only while that folder is empty: nothing is overwritten.
        os.rename(temporary, target)
    except OSError:
        # Another process was first (a foreign folder raises its own error here).
        if not _is_there(target, arguments):
            raise


def _clear_stale(target: Path) -> None:
    for remains in target.parent.glob(f".{target.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - remains.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(remains)
