"""Folders of config files: a project's own before those of the program, file by file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ConfigFolders:
    """Folders with config files of the same layout.

    A file of an earlier folder replaces the file of that name in all later ones.

    Args:
        first: the folder for new files; it need not exist.
        others: the folders behind it.
    """

    first: Path
    others: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """All folders that exist, without duplicates, in the order of the search."""
        resolved = dict.fromkeys(folder.resolve() for folder in (self.first, *self.others))
        return tuple(folder for folder in resolved if folder.is_dir())

    def find(self, name: str) -> Path:
        """Find a file.

        Args:
            name: relative path, e.g. ``dataset/camvid.yaml``.

        Returns:
            Its path in the first folder that has it; in the first folder if none has it.
        """
        paths = (folder / name for folder in self.all)
        return next((path for path in paths if path.is_file()), self.first.resolve() / name)

    def list_files(self, group: str = "") -> dict[str, Path]:
        """List the YAML files of a group: name without its ending -> path, sorted by name."""
        files = {
            path.stem: path
            for folder in reversed(self.all)
            for path in (folder / group).glob("*.yaml")
        }
        return dict(sorted(files.items()))

    def list_replaced(self) -> list[tuple[Path, Path]]:
        """List the files that replace others, each with the first file that it replaces."""
        replaced = []
        for index, folder in enumerate(self.all):
            for path in sorted(folder.rglob("*.yaml")):
                name = str(path.relative_to(folder))
                later = [other / name for other in self.all[index + 1 :]]
                replaced += [(path, other) for other in later if other.is_file()][:1]
        return replaced
