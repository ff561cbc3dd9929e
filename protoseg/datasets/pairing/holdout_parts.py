"""The held-out images of a training split and the rest of it, as files of a data set."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from protoseg.config.holdout.draw import WHERE, HoldoutDraw, draw_holdout
from protoseg.config.holdout.settings import HOLDOUT, HoldoutSpec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.layout import Pair, find_pairs, raise_problems
from protoseg.datasets.pairing.file_patterns import make_patterns
from protoseg.datasets.pairing.split_lists import NameIndex, select_names
from protoseg.errors import DataError, UsageError
from protoseg.files import file_digest


@dataclass(frozen=True)
class HoldoutParts:
    """The pairs of a training split by their use, each in the order of the split."""

    train: list[Pair]
    """Pairs to train on."""
    holdout: list[Pair]
    """Pairs to evaluate on."""
    gap: list[Pair]
    """Pairs beside held-out blocks, which are not used."""
    names_sha256: str
    """SHA-256 of the names of the images to train on and of the held-out ones."""


def find_samples(root: Path, dataset: DatasetSpec, split: str, holdout: HoldoutSpec) -> list[Pair]:
    """Find the pairs that a run trains on or is evaluated on.

    Args:
        root: the folder of the data set.
        dataset: its spec.
        split: a split of the data set, or ``holdout``.
        holdout: settings of the holdout, which may be unset.

    Returns:
        The held-out pairs if ``split`` is ``holdout``, the rest of the training split, or all pairs
        of any other split.

    Raises:
        DataError, UsageError: see `find_parts` and `layout.find_pairs`.
    """
    if holdout.is_set and split == HOLDOUT:
        return find_parts(root, dataset, holdout).holdout
    if holdout.is_set and split == dataset.train_split:
        return find_parts(root, dataset, holdout).train
    return find_pairs(root, dataset, split)


def find_parts(root: Path, dataset: DatasetSpec, holdout: HoldoutSpec) -> HoldoutParts:
    """Divide the training split by a holdout that is set.

    Raises:
        DataError: files are missing, or the list of the holdout is missing, differs from its
            digest or names other images than those of the training split.
        UsageError: a name does not fit the pattern, or no image is left to train on.
    """
    pairs = find_pairs(root, dataset, dataset.train_split)
    pattern, _ = make_patterns(root, dataset, dataset.train_split)
    names = [unicodedata.normalize("NFC", pattern.find_stem(pair.image)) for pair in pairs]
    if holdout.list:
        draw = _select_listed(root, dataset, holdout, pairs, names)
    else:
        draw = draw_holdout(names, holdout)
    train, held, gap = ([pairs[i] for i in part] for part in (draw.train, draw.holdout, draw.gap))
    digest = hash_names((names[i] for i in draw.train), (names[i] for i in draw.holdout))
    return HoldoutParts(train, held, gap, digest)


def hash_names(train: Iterable[str], holdout: Iterable[str]) -> str:
    """SHA-256 of the JSON text of two sorted lists of names, 64 hex digits."""
    return hashlib.sha256(json.dumps([sorted(train), sorted(holdout)]).encode()).hexdigest()


def _select_listed(
    root: Path, dataset: DatasetSpec, holdout: HoldoutSpec, pairs: list[Pair], names: list[str]
) -> HoldoutDraw:
    """The use of each image if a list names the held-out ones."""
    path = _find_list(root, holdout)
    patterns = make_patterns(root, dataset, dataset.train_split)
    indexes = (
        NameIndex(dict(zip(names, files, strict=True)), root, pattern.suffixes)
        for files, pattern in zip(zip(*pairs, strict=True), patterns, strict=True)
    )
    listed, problems = select_names(path, *indexes)
    raise_problems(problems)
    held = set(listed)
    rest = tuple(index for index, name in enumerate(names) if name not in held)
    if not rest:
        raise UsageError(
            f"{path}: names all {len(names)} images of '{dataset.train_split}', so none is left to "
            "train on. Remove names from the list."
        )
    return HoldoutDraw(
        rest, tuple(index for index, name in enumerate(names) if name in held), gap=()
    )


def _find_list(root: Path, holdout: HoldoutSpec) -> Path:
    name = PurePosixPath(holdout.list)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(
            f"{WHERE}.list: '{name}' is outside of the data set's folder {root}. Copy the list "
            "into that folder, and name it relative to the folder."
        )
    path = root / name
    if not path.is_file():
        raise DataError(
            f"{path}: the list of the held-out images is missing. Add it, or change {WHERE}.list."
        )
    if holdout.list_sha256:
        digest = file_digest(path)
        if not digest.startswith(holdout.list_sha256.lower()):
            raise DataError(
                f"{path}: its SHA-256 is {digest}, expected {holdout.list_sha256}. Get the "
                f"expected list, or change {WHERE}.list_sha256."
            )
    return path
