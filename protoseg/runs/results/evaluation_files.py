"""Files of an evaluation: sealed JSON with the name of its content, and confusion counts beside it.

    NAME.json    sealed JSON (`protoseg.runs.sealed`) with the key ``confusion``: file and sha256
    NAME.npz     confusion counts of every image

Nothing that exists is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.record import verify_confusion
from protoseg.runs.sealed import RecordError, SealedFormat


@dataclass(frozen=True)
class EvaluationFormat:
    """One type of evaluation: its keys and the name of its files."""

    sealed: SealedFormat
    make_name: Callable[[Mapping[str, Any]], str]
    """Makes the name of the files, without suffix, from the content."""

    def read_evaluation(self, path: Path) -> dict[str, Any]:
        """Read and check an evaluation and the digest of its counts.

        Raises:
            FileNotFoundError: there is no file.
            RecordError: it is damaged, has another content than its name, or its counts differ.
        """
        evaluation = self.sealed.read_file(path)
        name = self.make_name(evaluation)
        if path.name != f"{name}.json":
            raise RecordError(f"{path}: is the evaluation {name}. Give the file this name.")
        verify_confusion(evaluation, path.with_name(f"{name}.npz"), name)
        return evaluation

    def find_evaluation(
        self, folders: Iterable[Path], name: str
    ) -> tuple[Path, dict[str, Any]] | None:
        """Find an evaluation by the name of its files; None if no folder has it.

        Raises:
            RecordError: an evaluation is damaged, or two folders have different ones.
        """
        results: dict[str, tuple[Path, dict[str, Any]]] = {}
        for folder in folders:
            path = folder / f"{name}.json"
            if path.exists():
                evaluation = self.read_evaluation(path)
                results.setdefault(evaluation["digest"], (path, evaluation))
        if len(results) > 1:
            paths = " and ".join(str(path) for path, _ in results.values())
            raise RecordError(f"{paths}: two different evaluations. Move one of the two away.")
        return next(iter(results.values()), None)

    def write_evaluation(self, content: Mapping[str, Any], counts: bytes, folder: Path) -> Path:
        """Write the counts and then the sealed evaluation; an existing one is kept.

        Raises:
            RecordError: the folder has an evaluation of this name with other counts.
            StorageError: no space or no permission.
        """
        name = self.make_name(content)
        path = folder / f"{name}.json"
        files.make_folder(folder)
        with files.locked(folder / f".{name}.lock"):
            if path.exists():  # another call was faster
                if self.read_evaluation(path)["confusion"] != content["confusion"]:
                    raise RecordError(f"{path}: another evaluation has other counts; it is kept.")
                return path
            files.write_bytes(folder / f"{name}.npz", counts)
            self.sealed.write_once(self.sealed.seal(dict(content)), path)
        return path

    def publish_evaluation(self, path: Path, destination: Path) -> None:
        """Copy an evaluation and its counts; a different one is never overwritten.

        Raises:
            RecordError: ``destination`` holds another one, or a file is damaged.
        """
        evaluation = self.read_evaluation(path)
        counts = path.with_name(f"{self.make_name(evaluation)}.npz")
        target = destination / path.name
        if not target.exists():
            files.make_folder(destination)
            files.write_bytes(destination / counts.name, counts.read_bytes())
        self.sealed.write_once(evaluation, target)
