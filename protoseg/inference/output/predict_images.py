"""Predicts many images into a folder: loads ahead, predicts in batches, writes meanwhile."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protoseg import files
from protoseg.datasets.readers.photographs import read_size
from protoseg.datasets.worker_pool import WorkerPool
from protoseg.errors import DataError, ProtosegError
from protoseg.inference.images import explain_errors, load_image
from protoseg.inference.output.folder import PredictionFolder
from protoseg.inference.output.image_files import ImageWriter
from protoseg.inference.output.image_list import InputImage
from protoseg.inference.prediction import Prediction
from protoseg.inference.settings import PredictionSettings
from protoseg.inference.trained_model import TrainedModel

LOADED_AHEAD = 2**22
"""Pixels; larger images are loaded when it is their turn, so that few are in memory."""

COUNTED_AT_ONCE = 2**22
"""Pixels: numpy counts in a copy with 8 bytes for each."""


@dataclass
class Outcome:
    """What became of the images."""

    predicted: int = 0
    finished_before: int = 0
    failures: list[str] = field(default_factory=list)
    """One message for each image that could not be predicted."""


@dataclass(frozen=True)
class _Loaded:
    """An image in memory; or one to be loaded later, without pixels; or the reason of a failure."""

    image: InputImage
    pixels: np.ndarray | None = None
    problem: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    """``bytes``, ``modified_ns`` and ``sha256`` of its file."""


def select_unfinished(
    images: Sequence[InputImage], folder: PredictionFolder, writer: ImageWriter
) -> list[InputImage]:
    """Select the images whose files are not complete yet.

    Raises:
        ProtosegError: the folder has the prediction of another image of the same name, or of an
            earlier content of its file.
    """
    finished = folder.read_finished()
    unfinished = []
    for image in images:
        entry = finished.get(image.name)
        paths = (writer.find_path(part, image.name) for part in writer.list_parts())
        if entry is None or not all(path.is_file() for path in paths):
            unfinished.append(image)
        elif not _is_same_file(image.path, entry):
            raise ProtosegError(
                f"{image.path}: {folder.path} has the prediction '{image.name}' of another image "
                f"({entry.get('path')}, or the file has changed). Nothing is overwritten. Name "
                "another folder."
            )
    return unfinished


def _is_same_file(path: Path, entry: dict[str, Any]) -> bool:
    try:
        status = path.stat()
        if [status.st_size, status.st_mtime_ns] == [entry["bytes"], entry["modified_ns"]]:
            return True
        return bool(files.file_digest(path) == entry["sha256"])
    except (OSError, KeyError):
        return False


def predict_images(
    model: TrainedModel,
    images: Sequence[InputImage],
    folder: PredictionFolder,
    writer: ImageWriter,
    settings: PredictionSettings,
    *,
    batch: int = 1,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Predict images into an open folder; those that are finished are left out.

    Args:
        model: predicts.
        images: their output names differ.
        folder: opened by the caller.
        writer: writes into the same folder.
        settings: of the prediction.
        batch: images of one size that the network sees together. More than one can change the
            last bits of scores.
        jobs: threads that load, and threads that write.
        progress: called with (finished images, all images).

    Returns:
        How many images were predicted, and which failed. One that cannot be read does not stop the
        others.

    Raises:
        ProtosegError: the folder holds predictions of other images, or cannot be written.
    """
    unfinished = select_unfinished(images, folder, writer)
    outcome = Outcome(finished_before=len(images) - len(unfinished))
    total, done = len(images), outcome.finished_before

    def count_finished(number: int = 1) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, total)

    count_finished(0)
    with (
        WorkerPool(jobs, use_processes=False) as loaders,
        _WriterQueue(folder, writer, jobs, outcome, count_finished) as queue,
    ):
        for group in _group_images(loaders.map_tasks(_load_ahead, unfinished), batch):
            for loaded in [each for each in group if each.problem]:
                outcome.failures.append(loaded.problem)
                count_finished()
            ready = [each for each in group if not each.problem]
            for loaded, prediction in _predict_group(model, ready, settings):
                if isinstance(prediction, str):
                    outcome.failures.append(prediction)
                    count_finished()
                else:
                    queue.write(loaded, prediction)
    return outcome


def _load_ahead(image: InputImage) -> _Loaded:
    size = read_size(image.path)
    if size is not None and size[0] * size[1] > LOADED_AHEAD:
        return _Loaded(image)
    return _load(image)


def _load(image: InputImage) -> _Loaded:
    try:
        pixels, status = load_image(image.path), image.path.stat()
        origin = {
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "sha256": files.file_digest(image.path),
        }
        return _Loaded(image, pixels, origin=origin)
    except (DataError, OSError) as error:
        return _Loaded(image, problem=str(error))
    except MemoryError:
        return _Loaded(image, problem=f"{image.path}: does not fit into memory.")


def _group_images(loaded: Iterable[_Loaded], batch: int) -> Iterator[list[_Loaded]]:
    """Yield groups of consecutive images of one size, and single large or failed ones."""
    group: list[_Loaded] = []
    for each in loaded:
        if each.pixels is None and not each.problem:
            if group:
                yield group
            group = []
            yield [_load(each.image)]
            continue
        shape = None if each.pixels is None else each.pixels.shape
        first = None if not group or group[0].pixels is None else group[0].pixels.shape
        if group and (len(group) == batch or shape != first):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _predict_group(
    model: TrainedModel, group: Sequence[_Loaded], settings: PredictionSettings
) -> Iterator[tuple[_Loaded, Prediction | str]]:
    """Yield the prediction of each image, or the message of its failure."""
    pixels = [each.pixels for each in group if each.pixels is not None]
    if not pixels:
        return
    try:
        yield from zip(group, model.predict_batch(pixels, settings), strict=True)
    except DataError as error:
        for each in group:
            yield each, f"{each.image.path}: {error}"


class _WriterQueue:
    """Threads that write predictions; the number of waiting ones is bounded.

    A finished image is added to the folder's list by the thread that calls `write`.
    """

    def __init__(
        self,
        folder: PredictionFolder,
        writer: ImageWriter,
        jobs: int,
        outcome: Outcome,
        count_finished: Callable[[], None],
    ) -> None:
        self.folder, self.writer = folder, writer
        self.outcome, self.count_finished = outcome, count_finished
        self._limit = 2 * jobs
        self._threads = ThreadPoolExecutor(jobs)
        self._waiting: deque[tuple[_Loaded, Future[dict[str, Any]]]] = deque()

    def write(self, image: _Loaded, prediction: Prediction) -> None:
        """Write the files of an image, in a thread."""
        # Without scores, probabilities run the network again, which must not happen twice at once.
        large = prediction.labels.size > LOADED_AHEAD or not prediction.has_scores
        if not self.writer.settings.probabilities:
            prediction.release_scores()
        future = self._threads.submit(self._write_files, image, prediction)
        self._waiting.append((image, future))
        while len(self._waiting) > (0 if large else self._limit):
            self._finish_first()

    def _write_files(self, loaded: _Loaded, prediction: Prediction) -> dict[str, Any]:
        """Write the files of an image.

        Raises:
            DataError: they need more memory than there is.
            StorageError: no space left, or no permission.
        """
        name = loaded.image.name
        try:
            with explain_errors([prediction.image]):
                if self.writer.settings.probabilities:
                    bands, shape = prediction.iterate_probabilities()
                    self.writer.write_probabilities(name, bands, shape)
                self.writer.write_pictures(name, prediction.labels, prediction.image[..., ::-1])
                entry = {"name": name, "path": str(loaded.image.path), **loaded.origin}
                return entry | describe_labels(prediction.labels)
        except OSError as error:
            raise files.storage_error(error, self.folder.path) from error

    def _finish_first(self) -> None:
        loaded, future = self._waiting.popleft()
        try:
            self.folder.add_finished(future.result())
            self.outcome.predicted += 1
        except DataError as error:  # of this image: the others are predicted
            self.outcome.failures.append(f"{loaded.image.path}: {error}")
        self.count_finished()

    def __enter__(self) -> _WriterQueue:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        first_error = None
        try:
            while self._waiting:
                try:
                    self._finish_first()
                except ProtosegError as error:
                    # The others may be complete: they still count as finished.
                    first_error = first_error or error
        finally:
            self._threads.shutdown(cancel_futures=True)
        if first_error is not None and error_type is None:
            raise first_error


def describe_labels(labels: np.ndarray) -> dict[str, Any]:
    """Describe a label map (H, W) in the folder's list of finished images.

    Returns:
        ``height``, ``width``, and ``pixels``: class index -> number of pixels, the most first.
    """
    height, width = labels.shape
    counts: Counter[int] = Counter()
    for rows in np.array_split(labels, labels.size // COUNTED_AT_ONCE + 1):
        counts.update(dict(enumerate(np.bincount(rows.ravel()).tolist())))
    pixels = {str(index): number for index, number in counts.most_common() if number}
    return {"height": height, "width": width, "pixels": pixels}
