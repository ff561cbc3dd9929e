"""Guesses the spec of a data set from its folder, and lists what could not be guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from protoseg.config.fields import build
from protoseg.config.schema import HIGHEST_LABEL, DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.discovery import encoding
from protoseg.datasets.discovery.class_names import ClassNames, find_class_names
from protoseg.datasets.discovery.encoding import Encoding, add_label_map
from protoseg.datasets.discovery.pairing import Pairing, find_pairings
from protoseg.datasets.discovery.split_guess import guess_splits
from protoseg.datasets.discovery.trees import find_trees
from protoseg.datasets.folder_scan import IMAGE_ENDINGS, scan_folder
from protoseg.errors import DataError

MOST_MAPS = 200
"""The number of label maps that are read, spread over all pairs."""

VOID_COLORS = {(0, 0, 0), (255, 255, 255), (224, 224, 192)}
"""Colours that most data sets use for ignored pixels."""


@dataclass
class Guess:
    """The keys of a data set, the reasons, and the open questions."""

    fields: dict[str, Any]
    guesses: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    """One row per value or colour: name, value or colour, pixels, label maps, share."""
    maps_read: int = 0
    pairs: int = 0


def guess_data_set(
    root: Path, name: str, progress: Callable[[int, int], None] | None = None
) -> Guess:
    """Look at a folder and guess the spec of its data set.

    Args:
        root: the folder.
        name: the name of the data set.
        progress: called with (label maps read, label maps to read).

    Raises:
        DataError: the folder is missing, or no pairs are found.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is no folder. Name the folder of the published files.")
    names = sorted(scan_folder(root, "").files)
    trees = find_trees([n for n in names if n.lower().endswith(IMAGE_ENDINGS)])
    pairings = find_pairings(
        trees,
        cache(lambda file: encoding.is_photograph(root / file)),
        cache(lambda file: encoding.is_label_map(root / file)),
    )
    if not pairings:
        raise DataError(
            f"{root}: no photographs with label maps of the same name were found among "
            f"{sum(n.lower().endswith(IMAGE_ENDINGS) for n in names)} images. Write the YAML file "
            "yourself, see docs/your_data_set.md."
        )
    best = pairings[0]
    guess = Guess({"name": name, "digest": "unpinned"}, pairs=len(best.pairs))
    guess.guesses.append(f"{len(best.pairs)} pairs: {best.describe()}")
    for other in pairings[1:4]:
        guess.unknown.append(f"other label maps are possible: {other.describe()}")
    texts = [n for n in names if n.lower().endswith((".txt", ".lst", ".csv"))]
    splits = guess_splits(root, best, texts)
    guess.guesses += splits.notes
    guess.unknown += splits.problems
    content = _read_maps(root, best, guess, progress)
    json_files = [n for n in names if n.endswith(".json") and n.count("/") < 2]
    lists = [n for n in texts if n not in splits.files.values()]
    _guess_classes(guess, content, find_class_names(root, [*lists, *json_files]))
    guess.fields |= {
        "images": best.images.pattern,
        "annotations": best.annotations.pattern,
        "image_suffix": best.image_suffix,
        "annotation_suffix": best.annotation_suffix,
        "train_split": splits.train,
        "counts": splits.counts,
        **({"split_files": splits.files} if splits.files else {}),
    }
    _verify(root, guess)
    return guess


def _read_maps(
    root: Path, pairing: Pairing, guess: Guess, progress: Callable[[int, int], None] | None
) -> Encoding:
    chosen = pairing.pairs[:: -(-len(pairing.pairs) // MOST_MAPS)]
    content = Encoding()
    for number, (_, annotation) in enumerate(chosen, start=1):
        add_label_map(content, root / annotation.path)
        if progress is not None:
            progress(number, len(chosen))
    guess.maps_read = content.maps
    guess.unknown += content.problems[:5]
    if content.maps < len(pairing.pairs):
        guess.unknown.append(
            f"{content.maps} of {len(pairing.pairs)} label maps were read: others may have more "
            "classes, which 'protoseg data check' names"
        )
    if content.values and content.colors:
        guess.unknown.append("some label maps have one channel, others have colours")
    return content


def _guess_classes(guess: Guess, content: Encoding, sources: list[ClassNames]) -> None:
    if content.colors:
        _guess_colors(guess, content, sources)
        return
    values = sorted(content.values)
    if not values:
        guess.unknown.append("no label map could be read: write the classes yourself")
        guess.fields["classes"] = ["class_0", "class_1"]
        return
    void = next((v for v in (255, HIGHEST_LABEL) if v in values), None)
    classes = [value for value in values if value != void]
    source = next((s for s in sources if len(s.names) >= max(classes, default=0) + 1), None)
    if source is not None and len(source.names) == max(classes, default=0) + 1:
        classes = list(range(len(source.names)))
        names = list(source.names)
        guess.guesses.append(f"names of the classes from {source.file}")
    else:
        names = [f"class_{value}" for value in classes]
        guess.unknown.append("the names of the classes: replace class_0, class_1, ...")
    if void is not None:
        guess.guesses.append(f"{void} is ignored: the highest value of the format")
    else:
        guess.unknown.append(
            f"whether a value is void: {classes[0]} or {classes[-1]} may be; then remove its class "
            "and set ignore_index"
        )
    guess.fields |= {"classes": names, "ignore_index": void or (255 if max(values) < 255 else
                                                               HIGHEST_LABEL)}  # fmt: skip
    if classes != list(range(len(classes))):
        guess.fields["labels"] = classes
    if 0 in classes:
        guess.unknown.append("whether 0 is a class: if it is 'other', set reduce_zero_label")
    labelled = dict(zip(classes, names, strict=True))
    guess.guesses.append(f"{len(classes)} classes by value, {classes[0]} to {classes[-1]}")
    for value in sorted({*classes, *values}):
        _add_row(guess, content, labelled.get(value, "ignored"), value, content.values[value])


def _guess_colors(guess: Guess, content: Encoding, sources: list[ClassNames]) -> None:
    best = max(sources, key=lambda s: len(content.colors.keys() & {c for c, _ in s.colors}),
               default=None)  # fmt: skip
    known = dict(best.colors) if best else {}
    if known:
        assert best is not None
        guess.guesses.append(f"names of the colours from {best.file}")
    palette: dict[str, list[list[int]]] = {}
    for color in sorted({*content.colors, *known}):
        is_void = color in VOID_COLORS or known.get(color, "").lower() in ("void", "ignore")
        label = "ignore" if is_void else known.get(color, "color_" + "_".join(map(str, color)))
        palette.setdefault(label, []).append(list(color))
        if color in content.colors:
            _add_row(guess, content, label, color, content.colors[color])
    names = [label for label in palette if label != "ignore"]
    if "ignore" in palette:
        colors = ", ".join(str(color) for color in palette["ignore"])
        guess.guesses.append(f"ignored: {colors}, as in most data sets")
    if any(label.startswith("color_") for label in names):
        guess.unknown.append("the names of the classes: replace color_R_G_B")
    guess.guesses.append(f"{len(names)} classes by colour")
    guess.fields |= {"classes": names, "palette": palette}


def _add_row(guess: Guess, content: Encoding, name: str, key: Any, pixels: int) -> None:
    total = content.values.total() + content.colors.total()
    code = {"color": list(key)} if isinstance(key, tuple) else {"value": key}
    guess.classes.append(
        {
            "name": name,
            **code,
            "pixels": pixels,
            "maps": content.images[key],
            "share": round(pixels / (total or 1), 6),
        }
    )


def _verify(root: Path, guess: Guess) -> None:
    """Read the splits as `protoseg data check` does; what differs is an open question."""
    spec: DatasetSpec = build(DatasetSpec, guess.fields, guess.fields["name"])
    for split, count in guess.fields["counts"].items():
        try:
            pairs, problems = layout.scan_split(root, spec, split)
        except DataError as error:
            guess.unknown.append(str(error))
            continue
        guess.unknown += problems[:3]
        if len(problems) > 3:
            guess.unknown.append(f"{len(problems) - 3} more files of '{split}' are not paired")
        if len(pairs) != count and not problems:
            guess.unknown.append(f"split '{split}' has {len(pairs)} pairs, not {count}")
