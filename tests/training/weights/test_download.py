"""Addresses of weights out of mmseg's own recipes, and fetching them from a real server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from protoseg.errors import DataError, ProtosegError
from protoseg.training.weights.download import address, download
from training.small import compose, composer

CONTENT = bytes(range(256)) * 9000  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT`; paths make it break off, refuse, or send another file."""

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


def test_a_whole_file_arrives(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "w.pth"
    download(f"{server}/w.pth", path, SHA256[:8], lambda *numbers: seen.append(numbers))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1
    assert list(tmp_path.iterdir()) == [path], "nothing temporary is left"


def test_a_file_of_unknown_size(server: str, tmp_path: Path) -> None:
    download(f"{server}/unsized", tmp_path / "w.pth", "")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("another", f"not the file that was meant: SHA-256 is .*, expected {SHA256[:8]}"),
        ("broken", f"came cut short, {len(CONTENT) // 2} bytes of {len(CONTENT)}"),
        ("refused", r"can not be fetched \(HTTP Error 404"),
    ],
)
def test_a_file_that_does_not_come_whole_is_not_kept(
    path: str, sentence: str, server: str, tmp_path: Path
) -> None:
    for there in (False, True):
        target = tmp_path / "w.pth"
        if there:
            target.write_bytes(b"older")
        with pytest.raises(DataError, match=sentence) as error:
            download(f"{server}/{path}", target, SHA256[:8])
        assert "\n" not in str(error.value)
        assert [p.name for p in tmp_path.iterdir()] == (["w.pth"] if there else [])
        assert not there or target.read_bytes() == b"older"


def test_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can not be fetched .*Fetch it where there is a network"):
        download("http://127.0.0.1:9/w.pth", tmp_path / "w.pth", SHA256)
    with pytest.raises(DataError, match="can not be fetched"):
        download("no address", tmp_path / "w.pth", SHA256)


def test_a_folder_that_can_not_be_written(server: str, tmp_path: Path) -> None:
    with pytest.raises(ProtosegError) as error:
        download(f"{server}/w.pth", tmp_path / "gone" / "w.pth", SHA256)
    assert not isinstance(error.value, DataError), "no fault of the network"


def test_every_backbone_of_the_paper_has_the_address_of_its_recipe() -> None:
    found = {
        name: address(compose(f"backbone={name}").backbone)
        for name in composer().options["backbone"]
    }
    own = {"tiny", "mobilenet_v2", "mobilenet_v2_d16"}
    assert {name for name, url in found.items() if not url} == own
    for name, url in found.items():
        if url:
            backbone = compose(f"backbone={name}").backbone
            assert url.startswith("https://")
            assert url.endswith(f"/{backbone.weights}")
            digits = backbone.weights.removesuffix(".pth").rpartition("-")[2]
            assert backbone.weights_sha256 == digits, "the digits in the file's name"


def test_another_file_than_the_recipes_has_no_address() -> None:
    assert address(compose("backbone=mit_b0", "backbone.weights=mine.pth").backbone) == ""
