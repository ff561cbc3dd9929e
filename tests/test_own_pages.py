"""docs/your_backbone.md and docs/your_method.md, followed to the letter."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import DEADLINE

ROOT = Path(__file__).parents[1]
STEP = re.compile(
    r"`(?P<path>(?:mine|experiments)/[\w/]+\.(?:py|yaml))`"
    r"|```(?P<language>\w+)\n(?P<block>.*?)```",
    re.DOTALL,
)
Follow = Callable[[str], dict[str, str]]


def steps(text: str) -> Iterator[tuple[str, str]]:
    """(path, content) of each file that a page shows, (``$``, line) of each command, in order."""
    path = ""
    for found in STEP.finditer(text):
        if found["path"]:
            path = found["path"]
        elif found["language"] == "sh":
            lines = (line.split("  #")[0].strip() for line in found["block"].splitlines())
            yield from (("$", line) for line in lines if line)
        else:
            assert path, f"the page does not say where this goes: {found['block'][:60]}"
            yield path, found["block"]
            path = ""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    """Do what a text says in a folder with the experiments; command -> what it printed.

    Commands are those of this environment, without the folder they are called from on Python's
    path, as installed ones are.
    """
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    for name in ("DATA", "RUNS", "RESULTS", "EXPERIMENTS", "WEIGHTS"):
        monkeypatch.delenv(f"PROTOSEG_{name}", raising=False)
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "bin").mkdir()
    for name, words in (("protoseg", "-P -m protoseg.cli"), ("python", "")):
        shim = tmp_path / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    exports: list[str] = []

    def do(text: str) -> dict[str, str]:
        printed = {}
        for path, content in steps(text):
            if path != "$":
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(content)
            elif content.startswith("export "):
                exports.append(content)
            else:
                one_thread = " --threads 1" * content.startswith(("protoseg train ",))
                answer = subprocess.run(
                    ["bash", "-c", "\n".join([*exports, content + one_thread])],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE,
                    check=False,
                )
                assert answer.returncode == 0, f"{content}\n{answer.stdout}{answer.stderr}"
                printed[content] = answer.stdout
        return printed

    return do


def the_record(folder: Path, slug: str) -> dict[str, Any]:
    (path,) = (folder / "runs").glob(f"{slug}-*/record.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def digest(folder: Path, *names: str) -> str:
    """That of a package's source, as docs/reproducibility.md describes `code_sha256`."""
    content = [(name, (folder / name).read_bytes()) for name in names]
    return hashlib.sha256(
        b"".join(f"{name}\0{len(text)}\0".encode() + text for name, text in content)
    ).hexdigest()


def only(printed: dict[str, str], start: str) -> str:
    (output,) = (text for command, text in printed.items() if command.startswith(start))
    return output


@pytest.mark.parametrize("name", ["your_backbone.md", "your_method.md"])
def test_the_files_of_a_page_can_be_read(name: str) -> None:
    content = dict(steps(page(name)))
    assert "$" in content, "it has no command"
    for path, text in content.items():
        if path.endswith(".py"):
            compile(text, path, "exec")
        elif path.endswith(".yaml"):
            assert yaml.safe_load(text), path


@pytest.mark.slow
def test_a_backbone_that_mmseg_has(follow: Follow, tmp_path: Path) -> None:
    printed = follow(page("your_backbone.md").partition("## A custom backbone")[0])
    record = the_record(tmp_path, "shapes-resnet18-fcn-prototype-k10-s0")
    assert "resnet18_v1c-b5776b93.pth" in only(printed, "protoseg weights")
    # Counted without memory, and on the network that was trained.
    assert f"{record['parameters']['learnable'] / 1e6:.3f}" in only(printed, "protoseg params")
    assert record["spec"]["schedule"]["iterations"] == 12
    assert "outside" not in record["provenance"]


@pytest.mark.slow
def test_a_backbone_of_ones_own(follow: Follow, tmp_path: Path) -> None:
    printed = follow(page("your_backbone.md").partition("## A custom backbone")[2])
    record = the_record(tmp_path, "shapes-small_net-segformer-prototype-k10-s0")
    assert f"{record['parameters']['learnable'] / 1e6:.3f}" in only(printed, "protoseg params")
    weights = (tmp_path / "data/weights/small_net.pth").read_bytes()
    origin = record["provenance"]
    assert origin["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    source = {"version": None, "sha256": digest(tmp_path / "mine", "small_net.py")}
    assert origin["outside"] == {"small_net": source}
    assert [attempt["outside"] for attempt in origin["attempts"]] == [{"small_net": source}]
    assert record["spec"]["backbone"]["settings"]["type"] == "small_net.SmallNet"
    assert "12 runs" in only(printed, "protoseg plan")


@pytest.mark.slow
def test_a_method_of_ones_own(follow: Follow, tmp_path: Path) -> None:
    first, heading, table = page("your_method.md").partition("## A table with it")
    printed = follow(first)
    assert "1 passed" in only(printed, "python -m pytest")
    slug = "shapes-tiny-segformer-nearestmean-s0"
    record = the_record(tmp_path, slug)
    names = ("__init__.py", "head.py", "means.py")
    source = {"version": None, "sha256": digest(tmp_path / "mine/nearest_mean", *names)}
    assert record["provenance"]["outside"] == {"nearest_mean": source}
    method = {"kind": "nearest_mean.NearestMean", "temperature": 0.1, "window": 100_000}
    assert record["spec"]["method"] == method
    # One mean of 64 numbers for each of six classes, and no classifier of 65 for each.
    assert record["parameters"]["prototype"] == 6 * 64
    # As short as the first, which then is one of them: one run is left to be trained.
    short = " seed=0 schedule.iterations=12 schedule.batch_size=2"
    table = re.sub(r"^(protoseg (?:plan|sweep|tables) \w+)$", rf"\1{short}", table, flags=re.M)
    printed = follow(heading + table)
    assert "To train: 1 run" in only(printed, "protoseg plan")
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2
    line = next(x for x in only(printed, "protoseg tables").splitlines() if "Nearest mean" in x)
    assert f"{record['metrics']['miou']:.2f}" in line
    (row,) = re.findall(r"`(\{label: .*\})`", table)
    (tmp_path / "experiments/matrices/other.yaml").write_text(f"rows: [{row}]\n")
    assert "1000 pixels" in only(follow("```sh\nprotoseg plan other\n```"), "protoseg plan")
