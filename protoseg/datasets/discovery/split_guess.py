"""The splits of an unknown folder: from the names of its folders, or from list files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from protoseg.datasets.discovery.pairing import Pairing
from protoseg.datasets.pairing.split_lists import NameIndex, read_names, select_names
from protoseg.errors import DataError

TRAIN_WORDS = ("train", "training", "train_aug")


@dataclass
class Splits:
    """The splits of a data set and their number of pairs."""

    counts: dict[str, int]
    files: dict[str, str] = field(default_factory=dict)
    """Split -> its list file."""
    train: str = "train"
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def guess_splits(root: Path, pairing: Pairing, text_files: list[str]) -> Splits:
    """The splits of the pairs.

    Args:
        root: the data set.
        pairing: the images and label maps.
        text_files: relative paths of text files, which may be lists.
    """
    counts = Counter(image.split for image, _ in pairing.pairs)
    if "" not in counts:
        splits = Splits(dict(sorted(counts.items())))
        splits.notes.append(f"splits from the names of folders: {', '.join(splits.counts)}")
    else:
        splits = _read_lists(root, pairing, text_files)
    splits.train = _choose_train(splits.counts)
    if splits.counts and splits.train not in splits.counts:
        splits.problems.append("no split is for training: set train_split")
    if len(splits.counts) < 2:
        splits.problems.append(
            "no split for evaluation was found: add list files and name them in split_files"
        )
    return splits


def _choose_train(counts: dict[str, int]) -> str:
    for word in TRAIN_WORDS:
        if word in counts:
            return word
    return next((name for name in counts if name.startswith("train")), "train")


def _read_lists(root: Path, pairing: Pairing, text_files: list[str]) -> Splits:
    images, maps = ({image.path: root / pair[n].path for pair in pairing.pairs
                     for image in pair[:1]} for n in (0, 1))  # fmt: skip
    image_index = NameIndex(images, root, (pairing.image_suffix,))
    map_index = NameIndex(maps, root, (pairing.annotation_suffix,))
    splits = Splits({"train": len(pairing.pairs)})
    members: dict[str, set[str]] = {}
    for name in sorted(text_files, key=lambda text: (text.count("/"), text)):
        try:
            keys, problems = select_names(root / name, image_index, map_index)
            total = len(read_names(root / name))
        except DataError:
            continue
        split = Path(name).stem
        if problems and len(keys) > total // 2:
            splits.problems.append(problems[0])
        if problems or split in members:
            continue
        members[split] = set(keys)
        splits.files[split] = name
    for split in _find_unions(members):
        splits.notes.append(f"{splits.files[split]} is left out: it unites other lists")
        del splits.files[split], members[split]
    if members:
        splits.counts = {split: len(members[split]) for split in sorted(members)}
        splits.notes.append(f"splits from lists: {', '.join(splits.files.values())}")
        unlisted = len(pairing.pairs) - len(set().union(*members.values()))
        if unlisted:
            splits.notes.append(f"{unlisted} pairs are in no list and are not used")
    else:
        splits.notes.append("no list of a split: all pairs are for training")
    return splits


def _find_unions(members: dict[str, set[str]]) -> list[str]:
    """The lists that contain two others."""
    return [
        split
        for split, keys in members.items()
        if sum(other < keys for name, other in members.items() if name != split) > 1
    ]
