"""The provenance in a record: code, plugins, locks and kernels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.training.provenance import environment as provenance
from training.provenance.repository import change_files, git, write

pytestmark = pytest.mark.install


# Attempts of one run


@pytest.fixture
def run(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run folder; the checkout is the code of its attempts."""
    monkeypatch.setattr(provenance, "_get_checkout", lambda: checkout)
    folder = RunFolder(tmp_path / "runs" / "one-0123456789")
    folder.create({}, {})
    return folder


def start_attempt(run: RunFolder, iteration: int = 0, *plugins: str) -> dict[str, Any]:
    run.start_attempt({"iteration": iteration})
    return provenance.record_attempt_code(run, plugins)


def test_an_attempt_with_a_clean_tree_has_no_diff(run: RunFolder) -> None:
    collected = start_attempt(run)
    assert (collected["dirty"], collected["diff_file"], collected["diff_sha256"]) == (
        False,
        None,
        None,
    )
    assert [(e["first"], e["last"]) for e in collected["attempts"]] == [(1, 1)]
    assert not list(run.path.glob("*.diff"))
    json.dumps(collected, allow_nan=False)


def test_attempts_with_the_same_code_share_one_entry(run: RunFolder, checkout: Path) -> None:
    change_files(checkout)
    start_attempt(run)
    collected = start_attempt(run, 5)
    (entry,) = collected["attempts"]
    assert (entry["first"], entry["last"], entry["diff_file"]) == (1, 2, "code.diff")
    assert files.file_digest(run.path / "code.diff") == collected["diff_sha256"]


def test_a_run_resumed_with_other_code_keeps_both_diffs(run: RunFolder, checkout: Path) -> None:
    change_files(checkout)
    first = start_attempt(run)
    first_diff = (run.path / "code.diff").read_bytes()
    write(checkout / "protoseg" / "another.py", "x = 2\n")
    second = start_attempt(run, 5)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    collected = start_attempt(run, 9)
    entries = collected["attempts"]
    assert [(e["first"], e["last"], e["dirty"]) for e in entries] == [
        (1, 1, True), (2, 2, True), (3, 3, False)]  # fmt: skip
    assert [e["commit"] for e in entries] == [p["commit"] for p in (first, second, collected)]
    assert entries[0]["commit"] == entries[1]["commit"] != entries[2]["commit"]
    assert collected["diff_file"] is None
    assert not (run.path / "code.diff").exists(), "the last attempt has no diff"
    for entry, collected in zip(entries, (first, second), strict=False):
        assert entry["diff_file"] == provenance.old_diff_name(collected["diff_sha256"])
        assert files.file_digest(run.path / entry["diff_file"]) == collected["diff_sha256"]
    assert (run.path / entries[0]["diff_file"]).read_bytes() == first_diff


def test_an_attempt_without_code_is_unknown_or_omitted_if_it_trained_nothing(
    run: RunFolder,
) -> None:
    run.start_attempt({"iteration": 0})  # trained 5 iterations without recording its code
    run.start_attempt({"iteration": 5})  # lost before its first iteration
    collected = start_attempt(run, 5)
    assert [(e["first"], e["commit"] is None) for e in collected["attempts"]] == [
        (1, True),
        (3, False),
    ]


# Plugins, locks, kernels


def test_a_plugin_package_is_recorded_with_its_source_digest(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugins" / "outsider" / "net.py", "a = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    assert "outside" not in start_attempt(run)
    start_attempt(run, 3, "outsider")
    write(tmp_path / "plugins" / "outsider" / "net.py", "a = 2\n")
    collected = start_attempt(run, 5, "outsider")
    sources = [entry.get("outside", {}).get("outsider") for entry in collected["attempts"]]
    assert [source and source["version"] for source in sources] == [None, None, None]
    first, last = (str(source["sha256"]) for source in sources if source)
    assert first != last == collected["outside"]["outsider"]["sha256"]
    expected = hashlib.sha256(b"net.py\x006\x00a = 2\n").hexdigest()
    assert last == expected


def test_packages_that_differ_from_the_lock_are_listed(tmp_path: Path) -> None:
    build = torch.__version__.split("+")[0]
    write(
        tmp_path / "a.lock",
        f"# torch==0.0\ntorch=={build}\nNumPy==0.0.1  # old\npytest-nowhere==1.0\n",
    )
    write(tmp_path / "b.lock", f"torch=={build}+nobuild\n")
    differing = provenance.compare_locks([tmp_path / "a.lock", tmp_path / "none.lock"])
    assert differing is not None
    assert differing.keys() == {"NumPy", "pytest-nowhere"}
    assert differing["NumPy"][0] == "0.0.1"
    assert differing["pytest-nowhere"] == ["1.0", None]
    assert provenance.compare_locks([tmp_path / "b.lock"]) == {
        "torch": [f"{build}+nobuild", torch.__version__]
    }
    write(tmp_path / "exact.lock", f"torch=={torch.__version__}\n")
    assert provenance.compare_locks([tmp_path / "exact.lock"]) == {}
    assert provenance.compare_locks([tmp_path / "none.lock"]) is None


@pytest.mark.parametrize("metadata", ["2.13.0", "2.13.0+cpu"])
def test_torchs_build_is_recorded_even_if_its_metadata_lack_it(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str
) -> None:
    """The metadata of torch 2.13.0+cu130 from PyPI have the version 2.13.0."""
    read_version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: {"torch": metadata}.get(name, read_version)
    )
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    collected = start_attempt(run)
    assert collected["packages"]["torch"] == "2.13.0+cu130"
    assert [entry["torch"] for entry in collected["attempts"]] == ["2.13.0+cu130"]
    for name, content, differing in (
        ("release", "torch==2.13.0\n", {}),
        ("build", "torch==2.13.0+cu130\n", {}),
        ("other_build", "torch==2.13.0+cpu\n", {"torch": ["2.13.0+cpu", "2.13.0+cu130"]}),
        ("other_release", "torch==2.12.0\n", {"torch": ["2.12.0", "2.13.0+cu130"]}),
    ):
        write(tmp_path / name, content)
        assert provenance.compare_locks([tmp_path / name]) == differing, name


def test_kernel_settings_are_the_current_ones() -> None:
    before = provenance.read_kernel_settings()
    assert before["threads"] == torch.get_num_threads()
    assert before["float32_matmul_precision"] == "highest"
    assert before["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    try:
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("high")
        after = provenance.read_kernel_settings()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
    assert after["deterministic_algorithms"] is True
    assert after["float32_matmul_precision"] == "high"
    assert provenance.read_kernel_settings() == before
