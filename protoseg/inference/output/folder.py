"""The folder of predictions: its settings, and which images are finished.

predictions.json     run, weights, settings; written first, once
predictions.jsonl    one line for each finished image, appended after its files are complete
labels/NAME.png ...  see `protoseg.inference.output.image_files`
index.html           all pictures of the folder
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError

MANIFEST = "predictions.json"
JOURNAL = "predictions.jsonl"
LOCK = ".predictions.lock"
FORMAT = 1


class PredictionFolder:
    """A folder of predictions of one model with one group of settings.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def open(self, manifest: dict[str, Any]) -> Iterator[None]:
        """Create or continue the folder; no other process writes it meanwhile.

        Args:
            manifest: plain data about the model and the settings.

        Raises:
            ProtosegError: the folder has predictions of another model or with other settings, has
                other files, is in use, or cannot be written.
        """
        self._check_content()
        files.make_folder(self.path)
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context(files.open_lock(self.path / LOCK))
            except OSError as error:
                raise files.storage_error(error, self.path) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProtosegError(
                    f"{self.path}: another process predicts into this folder. Wait for it, or name "
                    "another folder."
                ) from None
            except OSError:
                pass  # a file system without locks
            content = {"format": FORMAT, **manifest}
            if not files.create_json(self.path / MANIFEST, content):
                self._check_manifest(content)
            yield

    def _check_content(self) -> None:
        """Refuse a folder that has files, but no predictions."""
        if self.path.exists() and not self.path.is_dir():
            raise ProtosegError(f"{self.path}: is a file. Name a folder.")
        if not self.path.is_dir() or (self.path / MANIFEST).is_file():
            return
        other = next((p.name for p in self.path.iterdir() if not p.name.startswith(".")), None)
        if other is not None:
            raise ProtosegError(
                f"{self.path}: is not empty ('{other}') and has no {MANIFEST}. Name a new folder, "
                "or one with predictions of this model."
            )

    def _check_manifest(self, content: dict[str, Any]) -> None:
        path = self.path / MANIFEST
        existing = files.read_json(path)
        if not isinstance(existing, dict):
            raise ProtosegError(f"{path}: is damaged. Name another folder.")
        for key in content:
            old, new = existing.get(key), content[key]
            if old != new:
                raise ProtosegError(
                    f"{self.path}: has predictions with another {key}: {_shorten(old)}, not "
                    f"{_shorten(new)}. Nothing is overwritten. Name another folder."
                )

    def read_finished(self) -> dict[str, dict[str, Any]]:
        """Name -> entry of each finished image, in the order in which they were finished.

        A line that was cut off, e.g. by a full disk, is left out: its image is predicted again.
        """
        entries = {}
        try:
            text = (self.path / JOURNAL).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return {}
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                entries[entry["name"]] = entry
        return entries

    def add_finished(self, entry: dict[str, Any]) -> None:
        """Add a finished image; its files are complete.

        Args:
            entry: ``name``, and other plain data.

        Raises:
            StorageError: no space left.
        """
        path = self.path / JOURNAL
        line = json.dumps(entry, ensure_ascii=True, allow_nan=False) + "\n"
        try:
            with files.open_lock(path) as file:  # opened to append
                # After a line that was cut off, begin a new one.
                if file.tell() and not self._ends_with_newline(path):
                    line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise files.storage_error(error, path) from error

    @staticmethod
    def _ends_with_newline(path: Path) -> bool:
        with open(path, "rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."
