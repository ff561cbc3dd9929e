"""Addresses of weights in mmseg's recipes, and downloads from a local server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from protoseg.errors import DataError, ProtosegError
from protoseg.training.weights.download import download_weights, find_address
from training.small import compose, composer

CONTENT = bytes(range(256)) * 9000  # several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT`; some paths close the connection early, fail, or send another file."""

    def do_GET(self) -> None:
        if self.path == "/refused":
            self.send_error(404)
            return
        body = b"another file" if self.path == "/another" else CONTENT
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/broken" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=partial(running.serve_forever, 0.02))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_complete_file_is_saved(server: str, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    path = tmp_path / "w.pth"
    download_weights(f"{server}/w.pth", path, SHA256[:8], lambda *numbers: progress.append(numbers))
    assert path.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert len(progress) > 1
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_a_file_of_unknown_size_is_saved(server: str, tmp_path: Path) -> None:
    download_weights(f"{server}/unsized", tmp_path / "w.pth", "")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("another", f"not the expected file: SHA-256 is .*, expected {SHA256[:8]}"),
        ("broken", f"incomplete download, {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("refused", r"download failed \(HTTP Error 404"),
    ],
)
def test_an_incomplete_or_different_file_is_not_saved(
    path: str, sentence: str, server: str, tmp_path: Path
) -> None:
    for exists in (False, True):
        target = tmp_path / "w.pth"
        if exists:
            target.write_bytes(b"older")
        with pytest.raises(DataError, match=sentence) as error:
            download_weights(f"{server}/{path}", target, SHA256[:8])
        assert "\n" not in str(error.value)
        assert [p.name for p in tmp_path.iterdir()] == (["w.pth"] if exists else [])
        assert not exists or target.read_bytes() == b"older"


def test_an_unreachable_address_is_one_error_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"download failed .*Download the file on a machine"):
        download_weights("http://127.0.0.1:9/w.pth", tmp_path / "w.pth", SHA256)
    with pytest.raises(DataError, match="download failed"):
        download_weights("no address", tmp_path / "w.pth", SHA256)


def test_a_missing_target_folder_is_not_a_data_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(ProtosegError) as error:
        download_weights(f"{server}/w.pth", tmp_path / "gone" / "w.pth", SHA256)
    assert not isinstance(error.value, DataError), "the network is not the cause"


def test_every_backbone_of_the_paper_has_an_address() -> None:
    addresses = {
        name: find_address(compose(f"backbone={name}").backbone)
        for name in composer().options["backbone"]
    }
    without_address = {"tiny", "timm", "mobilenet_v2", "mobilenet_v2_d16"}
    assert {name for name, url in addresses.items() if not url} == without_address
    for name, url in addresses.items():
        if url:
            backbone = compose(f"backbone={name}").backbone
            assert url.startswith("https://")
            assert url.endswith(f"/{backbone.weights}")
            digits = backbone.weights.removesuffix(".pth").rpartition("-")[2]
            assert backbone.weights_sha256 == digits, "the file name holds the digest"


def test_a_file_other_than_the_recipes_has_no_address() -> None:
    assert find_address(compose("backbone=mit_b0", "backbone.weights=other.pth").backbone) == ""
