"""The version and the source digest of a plug-in package, found without importing it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from protoseg.config.plugin_source import describe_plugin, hash_modules


def test_a_package_has_the_version_of_its_metadata_and_the_digest_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outsider").mkdir()
    (tmp_path / "outsider/net.py").write_text("a = 2\n")
    expected = hashlib.sha256(b"net.py\x006\x00a = 2\n").hexdigest()
    assert describe_plugin("outsider") == {"version": None, "sha256": expected}
    metadata = tmp_path / "outsider-0.3.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 0.3\n")
    assert describe_plugin("outsider") == {"version": "0.3", "sha256": expected}
    assert describe_plugin("nowhere_at_all") == {"version": None, "sha256": None}


def test_the_digest_covers_names_and_contents_of_modules_only(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core/a.py").write_text("one\n")
    before = hash_modules(tmp_path)
    (tmp_path / "ignored.pyc").write_text("x")
    assert hash_modules(tmp_path) == before
    (tmp_path / "core/a.py").write_text("other\n")
    changed = hash_modules(tmp_path)
    (tmp_path / "core/a.py").rename(tmp_path / "core/b.py")
    assert len({before, changed, hash_modules(tmp_path)}) == 3
