"""The files of one split: a folder or a pattern of paths, and the suffixes of the files.

`DatasetSpec.images` and ``annotations`` name a folder, or a pattern with ``{name}``:
``{city}/rgb/{name}`` are all files in the folders ``rgb`` of all cities. A placeholder matches
any text without a slash. A pair is an image and a label map with the same text in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from protoseg.config.schema import DatasetSpec

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
SPLIT, NAME = "split", "name"


@dataclass(frozen=True)
class FilePattern:
    """The images or the label maps of one split."""

    folder: Path
    """The folder that holds all of them, in subfolders too."""
    suffixes: tuple[str, ...]
    """Their suffixes, the longest first."""
    name: re.Pattern[str] | None = None
    """Matches the path below ``folder``, without suffix; None for any path."""
    other_suffixes: tuple[str, ...] = ()
    """Suffixes of the other files of the pairs, if they are in the same folder."""
    excluded: Path | None = None
    """The folder of the other files, if it is inside ``folder``."""

    def has_longer_suffix(self, name: str, suffix: str) -> bool:
        """Whether a file that ends in ``suffix`` belongs to a longer one such as ``_mask.png``."""
        longer = (s for s in (*self.suffixes, *self.other_suffixes) if len(s) > len(suffix))
        return any(name.lower().endswith(other.lower()) for other in longer)

    def is_whole_folder(self) -> bool:
        """Whether all files of the folder that end in the only suffix belong to the split."""
        return self.name is None and len(self.suffixes) == 1 and not self.other_suffixes

    def find_stem(self, path: Path) -> str:
        """The posix path of a file below ``folder``, without its suffix."""
        name = path.relative_to(self.folder).as_posix()
        return next((name.removesuffix(s) for s in self.suffixes if name.endswith(s)), name)

    def find_key(self, stem: str) -> str | None:
        """What a file has in common with the other file of its pair; None if it has another path.

        Args:
            stem: posix path below ``folder``, without suffix.
        """
        if self.name is None:
            return stem
        match = self.name.fullmatch(stem)
        return None if match is None else "/".join(match[key] for key in sorted(match.groupdict()))


def make_patterns(root: Path, dataset: DatasetSpec, split: str) -> tuple[FilePattern, FilePattern]:
    """The images and the label maps of a split."""
    suffixes = (
        dataset.image_suffixes or (dataset.image_suffix,),
        dataset.annotation_suffixes or (dataset.annotation_suffix,),
    )
    texts = [
        text.replace("{split}", split).rstrip("/") for text in (dataset.images, dataset.annotations)
    ]
    folders = [_split_pattern(text)[0] for text in texts]
    images, annotations = (
        FilePattern(
            root / folder,
            tuple(sorted(own, key=len, reverse=True)),
            _compile_pattern(_split_pattern(text)[1]),
            tuple(other) if _is_inside(folder, beside) or _is_inside(beside, folder) else (),
            root / beside if folder != beside and _is_inside(beside, folder) else None,
        )
        for folder, beside, text, own, other in zip(
            folders, folders[::-1], texts, suffixes, suffixes[::-1], strict=True
        )
    )
    return images, annotations


def find_pattern_problems(dataset: DatasetSpec) -> Iterator[str]:
    """One message for each contradiction in the patterns and suffixes of a data set."""
    names: dict[str, set[str]] = {}
    for field in ("images", "annotations"):
        text = getattr(dataset, field)
        names[field] = {name for name in PLACEHOLDER.findall(text) if name != SPLIT}
        wrong = [name for name in names[field] if not name.isidentifier()]
        if wrong:
            yield (
                f"dataset.{field}: '{{{wrong[0]}}}' is no placeholder in '{text}'; expected a "
                "word of letters in braces, such as {split}, {name} or {city}. Rename it."
            )
        elif names[field] and NAME not in names[field]:
            yield (
                f"dataset.{field}: '{text}' has {{{min(names[field])}}}, but not {{name}}. "
                "Add {name} for the name of the file, without its suffix."
            )
    if names["images"] != names["annotations"]:
        unpaired = ", ".join(f"{{{n}}}" for n in sorted(names["images"] ^ names["annotations"]))
        yield (
            f"dataset.images and dataset.annotations: {unpaired} is in one of them only. A pair "
            "has the same text in all placeholders but {split}: use each in both."
        )
    images = {*(dataset.image_suffixes or (dataset.image_suffix,))}
    shared = images.intersection(dataset.annotation_suffixes or (dataset.annotation_suffix,))
    if shared and dataset.images.rstrip("/") == dataset.annotations.rstrip("/"):
        yield (
            f"dataset.images and dataset.annotations: both are files of '{dataset.images}' ending "
            f"in '{min(shared)}'. Give them different folders, patterns or suffixes."
        )


def _split_pattern(text: str) -> tuple[str, str]:
    """The folder without placeholders, and the rest of a pattern; no rest without ``{name}``."""
    if f"{{{NAME}}}" not in text:
        return text, ""
    folder = text.partition("{")[0].rpartition("/")[0]
    return folder, text[len(folder) + 1 if folder else 0 :]


def _compile_pattern(rest: str) -> re.Pattern[str] | None:
    if not rest:
        return None
    parts, seen = [], set()
    for index, part in enumerate(PLACEHOLDER.split(rest)):
        if index % 2 == 0:
            parts.append(re.escape(part))
        else:
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+)")
            seen.add(part)
    return re.compile("".join(parts))


def _is_inside(first: str, second: str) -> bool:
    """Whether a folder is the second one, or inside it."""
    return second in ("", ".") or f"{first}/".startswith(f"{second}/")
