"""Samples of a finished run: what pictures of its results are drawn from, without the model.

    runs/RUN_ID/samples.npz       the full form, at most 2 MB
    results/samples/RUN_ID.npz    the published form, at most 100 kB (`samples_reduction`)

A file holds label maps of some images at reduced size, embeddings of some pixels, and where each
prototype has its nearest pixels. It holds no pixel of an image: the licences of most data sets
forbid that. Equal models give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg import files
from protoseg.runs.sealed import RecordError

Array = NDArray[Any]

SAMPLES = "samples"
"""Folder of published samples, in the folder of results."""
FILE = "samples.npz"
"""Name of the full form in a run folder."""
VERSION = 1
FULL_BYTES, PUBLISHED_BYTES = 2_000_000, 100_000
"""Largest file of each form."""

MAPS = ("truth", "prediction", "closest", "similarity")
ARRAYS = {
    "image_index": "(n,) int32: number of each image in the evaluation split",
    "image_size": "(n, 2) int32: height and width of each image, in pixels",
    "image_miou": "(n,) float64: mIoU of each image in percent, from the confusion counts",
    "embedding": "(N, D) float16: pixel embeddings",
    "embedding_class": "(N,) int32: ground-truth class",
    "embedding_prototype": "(N,) int32: column c·K + k of the closest prototype, or -1",
    "embedding_image": "(N,) int32: position in ``sampled_images``",
    "prototype_class": "(P,) int32: classes of the next three, the most frequent first",
    "prototype": "(P, K, D) float16",
    "nearest": "(P, K, M, 3) int32: position in ``sampled_images``, row, column, or -1",
    "nearest_similarity": "(P, K, M) float32",
    "prototype_pixels": "(C, K) int64: pixels of the n images whose closest prototype it is",
    "confusion_cell": "(E,) int64: ground truth · C + prediction, of the whole split",
    "confusion_count": "(E,) int64: pixels",
}
"""Arrays of a file beside `MAPS`; each map is flat there, with its sizes in ``NAME_size``."""
TEXTS = ("run_id", "state_sha256", "dataset", "folder", "split", "form", "distance", "rule")
NUMBERS = ("seed", "num_classes", "num_prototypes", "ignored", "count_difference")
DAMAGED = "Remove it, then make it again with: protoseg samples RUN"


@dataclass(frozen=True)
class Samples:
    """The content of a file of samples.

    Attributes:
        meta: plain values: `TEXTS`, `NUMBERS`, ``classes``, ``images`` (path of each image below
            the folder of its data set), ``sampled_images`` (the same of all images that pixels
            were sampled from, which `ARRAYS` number), ``similarity_range``; ``source``, the digest
            of the full form, in the published form.
        arrays: see `ARRAYS`.
        maps: ``truth`` and ``prediction``, class numbers of each image, (h, w); ``closest``,
            column of the closest prototype of all classes, and ``similarity`` to it, 0 to 255
            over ``similarity_range``, of the first images.
    """

    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]
    maps: Mapping[str, tuple[Array, ...]]

    @property
    def images(self) -> list[str]:
        """Path of each image below the folder of its data set."""
        return list(self.meta["images"])

    @property
    def num_prototypes(self) -> int:
        """K; 0 for a model without prototypes."""
        return int(self.meta["num_prototypes"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all values; it does not depend on the compression."""
        return hash_content(self.meta, self._flatten())

    def _flatten(self) -> dict[str, Array]:
        flat = dict(self.arrays)
        for name in MAPS:
            maps = self.maps[name]
            flat[f"{name}_size"] = np.array([m.shape for m in maps], np.int32).reshape(-1, 2)
            dtype = maps[0].dtype if maps else np.uint8
            flat[name] = np.concatenate([np.zeros(0, dtype), *(m.ravel() for m in maps)])
        return flat

    def pack(self) -> bytes:
        """Pack all values with their digest as a compressed .npz; equal values, equal bytes."""
        meta = files.canonical_json({**self.meta, "digest": self.digest})
        return pack_arrays({"meta": np.frombuffer(meta, np.uint8), **self._flatten()})


def hash_content(meta: Mapping[str, Any], flat: Mapping[str, Array]) -> str:
    """SHA-256 of the values of a file: those in ``meta``, then name, type, shape and bytes."""
    digest = hashlib.sha256(files.canonical_json(dict(meta)))
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Pack arrays as a compressed .npz without times; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    # numpy.savez writes the current time into the archive, which would change the digest.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entry.getvalue())
    return buffer.getvalue()


def read_samples(path: Path) -> Samples:
    """Read and check a file of samples.

    Raises:
        FileNotFoundError: there is no file.
        RecordError: it is damaged, edited, or of a newer version.
    """
    data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            flat = {name: archive[name] for name in archive.files}
        meta = json.loads(flat.pop("meta").tobytes())
        version, digest = meta["version"], meta.pop("digest")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise RecordError(f"{path}: not a file of samples ({error}). {DAMAGED}") from error
    if isinstance(version, int) and version > VERSION:
        raise RecordError(
            f"{path}: samples of version {version}; this protoseg reads up to {VERSION}. "
            "Update protoseg; the file is kept."
        )
    if hash_content(meta, flat) != digest:
        raise RecordError(f"{path}: the samples do not match their digest. {DAMAGED}")
    try:
        return _build_samples(meta, flat)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise RecordError(f"{path}: incomplete samples ({error}). {DAMAGED}") from error


def _build_samples(meta: dict[str, Any], flat: Mapping[str, Array]) -> Samples:
    """The samples of a file; raises ValueError, KeyError or TypeError if a part is wrong."""
    for key in (*TEXTS, *NUMBERS):
        if not isinstance(meta[key], str if key in TEXTS else int):
            raise ValueError(f"'{key}' is of another type")
    for name in (meta["folder"], *meta["images"], *meta["sampled_images"]):
        # A picture is opened by this name, so it must not lead out of the data folder.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"'{name}' is outside of the data folder")
    maps = {name: _split_maps(flat[name], flat[f"{name}_size"]) for name in MAPS}
    if {len(maps["truth"]), len(maps["prediction"])} != {len(meta["images"])}:
        raise ValueError("images and label maps differ in number")
    if len(maps["closest"]) != len(maps["similarity"]):
        raise ValueError("prototypes and similarities differ in number")
    return Samples(meta, {name: flat[name] for name in ARRAYS}, maps)


def _split_maps(flat: Array, sizes: Array) -> tuple[Array, ...]:
    ends = np.cumsum(sizes[:, 0].astype(np.int64) * sizes[:, 1])
    if (ends[-1] if len(ends) else 0) != len(flat):
        raise ValueError("a map has another size than stated")
    parts = np.split(flat, ends[:-1]) if len(ends) else []
    return tuple(part.reshape(size) for part, size in zip(parts, sizes, strict=True))


def check_origin(samples: Samples, record: Mapping[str, Any], path: Path) -> None:
    """Check that samples are of the model of a record.

    Raises:
        RecordError: they are of another run or another model.
    """
    state = record["provenance"].get("state_sha256")
    if samples.meta["run_id"] != record["run_id"] or samples.meta["state_sha256"] != state:
        raise RecordError(
            f"{path}: the samples are of another model than the record of {record['run_id']}. "
            f"Move the file away, then: protoseg samples {record['run_id']}"
        )


def find_samples(folders: Iterable[Path], runs: Path | None, run_id: str) -> Path | None:
    """Find the samples of a run: the published ones first, then those of its run folder.

    Args:
        folders: folders of published samples.
        runs: the folder of run folders.
        run_id: of the run.
    """
    paths = [folder / f"{run_id}.npz" for folder in folders]
    if runs is not None:
        paths.append(runs / run_id / FILE)
    return next((path for path in paths if path.is_file()), None)


def decode_similarities(samples: Samples, values: Array) -> Array:
    """Decode stored similarities, 0 to 255, to float32 similarities."""
    low, high = samples.meta["similarity_range"]
    scaled: Array = low + values.astype(np.float32) * ((high - low) / 255)
    return scaled
