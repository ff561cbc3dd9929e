"""Where mmseg's recipes take their weights from, and fetching them from there."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from mmengine.runner.checkpoint import get_external_models, get_mmcls_models

from protoseg import files
from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError
from protoseg.training.build.config import recipe

Progress = Callable[[int, int], None]
"""Called with the bytes that have come and their number, 0 where it is not known."""

CHUNK = 2**20
SECONDS = 30.0
"""Without a byte for so long, a download has failed."""


def address(backbone: BackboneSpec) -> str:
    """The address that a backbone's own recipe names; empty where the file is another one."""
    model = recipe(backbone.recipe).model
    init = model.backbone.get("init_cfg") or {}
    named = str(init.get("checkpoint") or model.get("pretrained") or "")
    hub, _, name = named.partition("://")
    if hub == "open-mmlab":
        named = get_external_models().get(name, "")
    elif hub == "mmcls":
        named = get_mmcls_models().get(name, "")
    return named if named and named.rsplit("/", 1)[-1] == backbone.weights else ""


def download(url: str, path: Path, sha256: str, progress: Progress | None = None) -> None:
    """Fetch a file; it has its name only once it is whole and has the digest.

    Args:
        sha256: its SHA-256 or the first digits of it; empty accepts any.

    Raises:
        DataError: not reachable, cut short, or not the file that was meant.
        ProtosegError: it can not be written.
    """

    def fill(file: BinaryIO) -> None:
        try:
            done, expected, found = _copy(url, file, progress)
        except (OSError, HTTPException, ValueError) as error:
            network = (urllib.error.URLError, ConnectionError, TimeoutError)
            if isinstance(error, OSError) and not isinstance(error, network):
                raise  # the disk's, not the network's
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the answer too
            raise DataError(
                f"{url}: can not be fetched ({error}). Fetch it where there is a network, and put "
                f"it at {path}."
            ) from error
        if expected and done < expected:
            raise DataError(f"{url}: came cut short, {done} bytes of {expected}; try again.")
        if not found.startswith(sha256):
            raise DataError(
                f"{url}: not the file that was meant: SHA-256 is {found}, expected {sha256}; "
                "nothing was kept."
            )

    files.write_with(path, fill)


def _copy(url: str, file: BinaryIO, progress: Progress | None) -> tuple[int, int, str]:
    """Bytes that came, bytes that were announced (0: not said), and their SHA-256."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        expected = int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, expected)
    return done, expected, digest.hexdigest()
