"""The commands and keys of docs/your_data_set.md work; docs/data.md lists every data set."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from waiting import DEADLINE

from protoseg.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
OWN = (ROOT / "docs" / "your_data_set.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The only code block of docs/your_data_set.md in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", OWN, re.DOTALL)
    return text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with experiments, and images at the paths of the page."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (name,) = re.findall(r"Write `(experiments/dataset/\w+\.yaml)`", OWN)
    (tmp_path / name).write_text(block("yaml"))
    paths = re.findall(r"data/mine/\S+", OWN.partition("Write `")[0])
    assert len(paths) == 4
    classes = len(yaml.safe_load(block("yaml"))["classes"])
    rng = np.random.default_rng(0)
    for path in map(Path, paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            shape = (64, 96) if path.suffix == ".png" else (64, 96, 3)
            high = classes if path.suffix == ".png" else 256
            pixels = rng.integers(0, high, shape).astype(np.uint8)
            file = tmp_path / path.with_stem(f"{path.stem}{number}")
            Image.fromarray(pixels).save(file)
    return tmp_path


@pytest.fixture
def folders(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout as the current folder, without environment variables of protoseg."""
    for name in ("DATA", "RUNS", "RESULTS", "EXPERIMENTS", "WEIGHTS"):
        monkeypatch.delenv(f"PROTOSEG_{name}", raising=False)
    monkeypatch.setenv("PROTOSEG_CACHE", str(checkout / "cache"))
    monkeypatch.chdir(checkout)
    return checkout


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in a new process."""
    arguments = [sys.executable, "-m", "protoseg.cli", *shlex.split(command)[1:]]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE, check=False)


def pin_digest(printed: str) -> str:
    """Write the digest that `data check` printed into the config file; return it."""
    (digest,) = re.findall(r"digest (\w{64})", printed)
    file = Path("experiments/dataset/mine.yaml")
    file.write_text(file.read_text().replace("digest: unpinned", f"digest: {digest}"))
    return digest


def test_the_data_set_of_the_page_passes_the_check(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check, _ = block("sh").strip().splitlines()
    assert main(shlex.split(check)[1:]) == 0
    printed = capsys.readouterr().out
    assert "mine: fine" in printed
    pin_digest(printed)
    assert main(shlex.split(check)[1:]) == 0
    capsys.readouterr()
    # With a pinned digest, other pixels are an error.
    Image.new("L", (96, 64), 1).save(folders / "data/mine/annotations/val/b0.png")
    assert main(shlex.split(check)[1:]) == 1
    assert "this copy of 'mine' is not the one of the spec" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_of_the_page_train_a_run(folders: Path) -> None:
    check, train = block("sh").strip().splitlines()
    done = run(check)
    assert done.returncode == 0, done.stderr
    digest = pin_digest(done.stdout)
    done = run(f"{train} --threads 1")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folders / "runs").glob("mine-*/record.json")
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["spec"]["dataset"]["digest"] == digest
    assert [row["name"] for row in record["per_class"]] == ["background", "leaf", "stem"]
    assert record["spec"]["schedule"]["iterations"] == 12


@pytest.mark.parametrize("row", re.findall(r"^\| (?:are|have|must|start).*$", OWN, re.M))
def test_the_keys_in_the_table_are_keys_of_a_data_set(row: str) -> None:
    from protoseg.config.fields import build
    from protoseg.config.schema import DatasetSpec

    base = yaml.safe_load(block("yaml"))
    del base["defaults"]
    for text in re.findall(r"`(\w+: [^`]+)`", row):
        build(DatasetSpec, {**base, **yaml.safe_load(text)}, "docs/data.md")


def test_the_table_lists_every_data_set_with_its_counts() -> None:
    rows = {}
    for cells in re.findall(r"^\|(.+)\|$", PAGE.partition("## Where")[0], re.M):
        name, options, classes, counts, _ = (cell.strip() for cell in cells.split("|"))
        for option in re.findall(r"`(\w+)`", options.partition(";")[0]):
            full_name = f"ade20k_full{option}" if option.startswith("_") else option
            rows[full_name] = (name, classes, counts)
    files = {path.stem: path for path in (ROOT / "experiments/dataset").glob("*.yaml")}
    # Three variants are described in the row of another data set.
    assert set(rows) == set(files) - {"ade20k_full_150", "pascal_voc_weak", "ccp_weak_masks"}
    assert all(f"`{name}`" in PAGE for name in set(files) - set(rows))
    for option, (_, classes, counts) in rows.items():
        dataset = yaml.safe_load(files[option].read_text())
        numbers = [int(digits) for digits in re.findall(r"\d+", counts.replace(",", ""))]
        assert numbers == list(dataset["counts"].values()), option
        if classes.isdigit() and not option.startswith("ccp_"):
            assert int(classes) == len(dataset["classes"])
