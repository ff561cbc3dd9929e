"""The steps of the pages docs/your_*.md about models, losses and loggers work."""

from __future__ import annotations

import hashlib
import importlib.util
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
    r"`(?P<path>(?:mine|experiments)/[\w/]+\.(?:py|yaml|toml))`"
    r"|```(?P<language>\w+)\n(?P<block>.*?)```",
    re.DOTALL,
)
Follow = Callable[[str], dict[str, str]]
"""Follows the steps of a text and returns the output of each command."""


def steps(text: str) -> Iterator[tuple[str, str]]:
    """The steps of a text in order: (path, content) of a file, or (``$``, line) of a command."""
    path = ""
    for step in STEP.finditer(text):
        if step["path"]:
            path = step["path"]
        elif step["language"] == "sh":
            lines = (line.split("  #")[0].strip() for line in step["block"].splitlines())
            yield from (("$", line) for line in lines if line)
        elif step["language"] != "text":  # the output of a command
            assert path, f"the page names no file for this block: {step['block'][:60]}"
            yield path, step["block"]
            path = ""


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def sections(name: str) -> list[str]:
    """The text before the first heading of a page, then its sections."""
    return re.split(r"^(?=## )", page(name), flags=re.M)


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    """A function that follows the steps of a text in a folder with the experiments.

    Commands run with this Python. As for an installed command, the working directory is not in
    Python's path.
    """
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    for name in ("DATA", "RUNS", "RESULTS", "EXPERIMENTS", "WEIGHTS"):
        monkeypatch.delenv(f"PROTOSEG_{name}", raising=False)
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "bin").mkdir()
    for name, options in (("protoseg", "-P -m protoseg.cli"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    exports: list[str] = []

    def follow_steps(text: str) -> dict[str, str]:
        outputs = {}
        for path, content in steps(text):
            if path != "$":
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(content)
            elif content.startswith("export "):
                exports.append(content)
            else:
                is_training = content.startswith("protoseg train ")
                command = f"{content} --threads 1" if is_training else content
                process = subprocess.run(
                    ["bash", "-c", "\n".join([*exports, command])],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE,
                    check=False,
                )
                assert process.returncode == 0, f"{content}\n{process.stdout}{process.stderr}"
                outputs[content] = process.stdout
        return outputs

    return follow_steps


def only_record(folder: Path, slug: str) -> dict[str, Any]:
    """The record of the only run with this slug."""
    (path,) = (folder / "runs").glob(f"{slug}-*/record.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def source_digest(folder: Path, *names: str) -> str:
    """The digest of a package's source files, as docs/reproducibility.md describes it."""
    digest = hashlib.sha256()
    for name in names:
        text = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def output_of(outputs: dict[str, str], start: str) -> str:
    """The output of the only command that starts like this."""
    (output,) = (text for command, text in outputs.items() if command.startswith(start))
    return output


@pytest.mark.parametrize(
    "name", ["your_backbone.md", "your_method.md", "your_loss.md", "your_logger.md"]
)
def test_the_files_of_a_page_are_valid(name: str) -> None:
    content = dict(steps(page(name)))
    assert "$" in content, "the page has no command"
    for path, text in content.items():
        if path.endswith(".py"):
            compile(text, path, "exec")
        elif path.endswith(".yaml"):
            assert yaml.safe_load(text), path


@pytest.mark.slow
def test_the_page_trains_a_backbone_of_mmseg(follow: Follow, tmp_path: Path) -> None:
    introduction, of_mmseg, *_ = sections("your_backbone.md")
    outputs = follow(introduction + of_mmseg)
    record = only_record(tmp_path, "shapes-resnet18-fcn-prototype-k10-s0")
    assert "resnet18_v1c-b5776b93.pth" in output_of(outputs, "protoseg weights")
    # `params` counts the network that was trained.
    learnable = f"{record['parameters']['learnable'] / 1e6:.3f}"
    assert learnable in output_of(outputs, "protoseg params")
    assert record["spec"]["schedule"]["iterations"] == 12
    assert "outside" not in record["provenance"]


@pytest.mark.slow
def test_the_page_trains_a_backbone_of_timm(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(map(importlib.util.find_spec, ("timm", "torchvision"))):
        pytest.skip("needs the extra [timm]")
    from safetensors.torch import save_file

    from protoseg.models.timm_backbone import import_timm

    _, _, of_timm, *_ = sections("your_backbone.md")
    downloads = re.findall(r"^(?:pip|hf) .*\n", of_timm, flags=re.M)
    assert len(downloads) == 3
    # The file that `hf download` would put into the cache.
    repository = tmp_path / "hub" / "models--timm--resnet50.a1_in1k"
    file = repository / "snapshots" / "0123" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    save_file(import_timm().create_model("resnet50").state_dict(), file)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    outputs = follow(re.sub(r"^(?:pip|hf) .*\n", "", of_timm, flags=re.M))
    record = only_record(tmp_path, "shapes-resnet50-a1_in1k-segformer-prototype-k10-s0")
    learnable = f"{record['parameters']['learnable'] / 1e6:.3f}"
    assert learnable in output_of(outputs, "protoseg params")
    origin = record["provenance"]
    assert origin["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(record["spec"])


@pytest.mark.slow
def test_the_page_trains_a_custom_backbone(follow: Follow, tmp_path: Path) -> None:
    _, _, _, *custom = sections("your_backbone.md")
    outputs = follow("".join(custom))
    record = only_record(tmp_path, "shapes-small_net-segformer-prototype-k10-s0")
    learnable = f"{record['parameters']['learnable'] / 1e6:.3f}"
    assert learnable in output_of(outputs, "protoseg params")
    weights = (tmp_path / "data/weights/small_net.pth").read_bytes()
    origin = record["provenance"]
    assert origin["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    source = {"version": None, "sha256": source_digest(tmp_path / "mine", "small_net.py")}
    assert origin["outside"] == {"small_net": source}
    assert [attempt["outside"] for attempt in origin["attempts"]] == [{"small_net": source}]
    assert record["spec"]["backbone"]["settings"]["type"] == "small_net.SmallNet"
    clipped = only_record(tmp_path, "shapes-tiny-segformer-prototype-k10-s0")["spec"]
    assert clipped["recipes"]["schedule"]["optim_wrapper"]["clip_grad"] == {"max_norm": 1.0}
    assert str(tmp_path) not in json.dumps(clipped)
    assert "12 runs" in output_of(outputs, "protoseg plan")


@pytest.mark.slow
def test_the_page_trains_a_custom_method(follow: Follow, tmp_path: Path) -> None:
    parts = sections("your_method.md")
    table_section = next(i for i, part in enumerate(parts) if "\nprotoseg tables " in part)
    method, table = "".join(parts[:table_section]), "".join(parts[table_section:])
    outputs = follow(method)
    assert "1 passed" in output_of(outputs, "python -m pytest")
    record = only_record(tmp_path, "shapes-tiny-segformer-nearestmean-s0")
    names = ("__init__.py", "head.py", "means.py")
    source = {"version": None, "sha256": source_digest(tmp_path / "mine/nearest_mean", *names)}
    assert record["provenance"]["outside"] == {"nearest_mean": source}
    assert record["spec"]["method"] == {
        "kind": "nearest_mean.NearestMean",
        "temperature": 0.1,
        "window": 100_000,
    }
    # A change of the source is not "nothing to do".
    source_file = tmp_path / "mine/nearest_mean/means.py"
    original = source_file.read_text()
    source_file.write_text(original + "# changed\n")
    (run_id,) = (path.name for path in (tmp_path / "runs").glob("shapes-tiny-*"))
    (tmp_path / "experiments/matrices/one.yaml").write_text(
        "base: {method: nearest_mean, schedule.iterations: 12, schedule.batch_size: 2}\n"
    )
    plan = output_of(follow("```sh\nprotoseg plan one\n```"), "protoseg plan")
    assert (
        f"trained with other code of the package nearest_mean (source {source['sha256'][:10]}"
        in (" ".join(plan.split()))
    )
    assert run_id in plan
    assert "1 new" in output_of(
        follow("```sh\nprotoseg plan one plugin_version=2\n```"), "protoseg plan"
    )
    source_file.write_text(original)
    # Each of the six classes has one mean of 64 numbers.
    assert record["parameters"]["prototype"] == 6 * 64
    # Shortened like the run above, which is one of the table: one run is left to train.
    short = " seed=0 schedule.iterations=12 schedule.batch_size=2"
    table = re.sub(r"^(protoseg (?:plan|sweep|tables) \w+)$", rf"\1{short}", table, flags=re.M)
    outputs = follow(table)
    assert "To train: 1 run" in output_of(outputs, "protoseg plan")
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2
    lines = output_of(outputs, "protoseg tables").splitlines()
    line = next(line for line in lines if "Nearest mean" in line)
    assert f"{record['metrics']['miou']:.2f}" in line
    (row,) = re.findall(r"`(\{label: .*\})`", table)
    (tmp_path / "experiments/matrices/other.yaml").write_text(f"rows: [{row}]\n")
    assert "1000 pixels" in output_of(follow("```sh\nprotoseg plan other\n```"), "protoseg plan")


@pytest.mark.slow
def test_the_page_trains_a_custom_loss(follow: Follow, tmp_path: Path) -> None:
    outputs = follow(page("your_loss.md"))
    assert "1 passed" in output_of(outputs, "python -m pytest")
    record = only_record(tmp_path, "shapes-tiny-segformer-dice-k1-s0")
    names = ("__init__.py", "head.py")
    source = {"version": None, "sha256": source_digest(tmp_path / "mine/dice", *names)}
    assert record["provenance"]["outside"] == {"dice": source}
    assert record["spec"]["method"]["dice_weight"] == 1.0
    # All losses are summed, and logged one by one.
    for _, losses in record["losses"]:
        assert losses["loss"] == pytest.approx(losses["loss_ce"] + losses["loss_dice"], rel=1e-4)
        assert 0 < losses["loss_dice"] < 1


@pytest.mark.slow
def test_the_page_trains_with_a_custom_logger(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pip installs into a folder of this test, and asks no package index.
    site = tmp_path / "site"
    monkeypatch.setenv("PIP_TARGET", str(site))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # the value means: without isolation
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    entries = [str(site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, entries)))
    outputs = follow(page("your_logger.md"))
    record = only_record(tmp_path, "shapes-tiny-segformer-prototype-k10-s0")
    (path,) = (tmp_path / "runs").glob("*/values.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    losses = [float(value) for _, name, value in rows if name == "loss"]
    assert losses == [means["loss"] for _, means in record["losses"]]
    assert rows[-3][:2] == ["12", "miou"]
    assert float(rows[-3][2]) == record["metrics"]["miou"]
    # The page shows the same lines, up to the rounding of other machines.
    shown = re.search(r"```text\n(.*?)```", page("your_logger.md"), re.DOTALL)
    assert shown is not None
    printed = output_of(outputs, "head ").splitlines()
    for line, expected in zip(shown[1].splitlines(), printed, strict=True):
        assert line.split(",")[:2] == expected.split(",")[:2]
        assert float(line.split(",")[2]) == pytest.approx(float(expected.split(",")[2]), rel=1e-3)
