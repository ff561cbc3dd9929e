"""``protoseg weights``."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine
from protoseg.training.weights import download


def test_list_shows_files_and_addresses(protoseg: CommandLine) -> None:
    rows = {row["backbone"]: row for row in protoseg("weights", "--json").json["weights"]}
    assert "tiny" not in rows
    b2 = rows["mit_b2"]
    assert b2["address"].endswith("/segformer/mit_b2_20220624-66e8bf70.pth")
    assert b2["here"] is False
    assert rows["mobilenet_v2"]["address"] == ""
    text = protoseg("weights", "list").out
    assert b2["address"] in text
    assert "unknown" in text


def test_weights_are_downloaded_once(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is that of a local file; the rest of the download is unchanged."""
    content = b"weights"
    (tmp_path / "w").write_bytes(content)
    monkeypatch.setattr(download, "find_address", lambda backbone: (tmp_path / "w").as_uri())
    assert "tiny: has no pre-trained weights" in protoseg("weights", "get", "tiny").out
    result = protoseg("weights", "get", "mit_b2")
    assert result.status == 1
    assert f"SHA-256 is {hashlib.sha256(content).hexdigest()}, expected 66e8bf70" in result.err
    path = protoseg.data / "weights" / "mit_b2_20220624-66e8bf70.pth"
    assert not path.exists()
    path.write_bytes(b"something else")
    result = protoseg("weights", "get", "mit_b2")
    assert result.status == 1
    assert "not the weights that backbone mit_b2 names" in result.err
    path.unlink()
    digits = hashlib.sha256(content).hexdigest()[:8]
    experiments = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", experiments)
    option = experiments / "backbone" / "mit_b2.yaml"
    option.write_text(option.read_text().replace('"66e8bf70"', f'"{digits}"'))
    for state in ("downloaded", "exists already"):
        result = protoseg("weights", "--experiments", str(experiments), "get", "mit_b2")
        assert result.status == 0, result.err
        assert f"mit_b2: {state}, {path}" in result.out
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["fetch"], 2, "unknown action 'fetch'"),
        (["list", "mit_b2"], 2, "takes no names"),
        (["get"], 2, "name a backbone. Known: "),
        (["get", "mit_b9"], 2, "unknown backbone 'mit_b9'"),
        (["get", "mobilenet_v2"], 1, "no public address is known"),
    ],
)
def test_wrong_arguments_are_reported(
    arguments: list[str], status: int, message: str, protoseg: CommandLine
) -> None:
    result = protoseg("weights", *arguments)
    assert result.status == status
    assert message in result.err
