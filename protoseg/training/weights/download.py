"""Download pre-trained weights from the addresses in mmseg's recipes."""

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
from protoseg.errors import DataError, UsageError
from protoseg.training.builders.recipe_files import load_recipe

Progress = Callable[[int, int], None]
"""Called with the number of received bytes and the total number, 0 if unknown."""

CHUNK = 2**20
SECONDS = 30.0
"""A download fails after this time without data."""


def find_address(backbone: BackboneSpec) -> str:
    """The address of a backbone's weights in its recipe of mmseg.

    Empty if the recipe names another file, or is not one of mmseg.
    """
    try:
        model = load_recipe(backbone.recipe).model
    except UsageError:
        return ""
    init = model.backbone.get("init_cfg") or {}
    url = str(init.get("checkpoint") or model.get("pretrained") or "")
    hub, _, name = url.partition("://")
    if hub == "open-mmlab":
        url = get_external_models().get(name, "")
    elif hub == "mmcls":
        url = get_mmcls_models().get(name, "")
    return url if url and url.rsplit("/", 1)[-1] == backbone.weights else ""


def download_weights(url: str, path: Path, sha256: str, progress: Progress | None = None) -> None:
    """Download a file to ``path``, which is created once the file is complete and verified.

    Args:
        sha256: the SHA-256 of the file, or its first digits; empty accepts any file.

    Raises:
        DataError: the address is not reachable, or the file is incomplete or a different one.
        ProtosegError: ``path`` cannot be written.
    """

    def write_content(file: BinaryIO) -> None:
        try:
            received, expected, digest = _copy(url, file, progress)
        except (OSError, HTTPException, ValueError) as error:
            network = (urllib.error.URLError, ConnectionError, TimeoutError)
            if isinstance(error, OSError) and not isinstance(error, network):
                raise  # an error of the disk, not of the network
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # the error is also the response
            raise DataError(
                f"{url}: download failed ({error}). Download the file on a machine with a network "
                f"connection, and copy it to {path}."
            ) from error
        if expected and received < expected:
            raise DataError(
                f"{url}: incomplete download, {received} of {expected} bytes. Try again."
            )
        if not digest.startswith(sha256):
            raise DataError(
                f"{url}: not the expected file: SHA-256 is {digest}, expected {sha256}. "
                "Nothing was saved."
            )

    files.write_with(path, write_content)


def _copy(url: str, file: BinaryIO, progress: Progress | None) -> tuple[int, int, str]:
    """Copy a download to a file.

    Returns:
        Number of received bytes, number of announced bytes (0 if unknown), and SHA-256.
    """
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        expected = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            if progress:
                progress(received, expected)
    return received, expected, digest.hexdigest()
