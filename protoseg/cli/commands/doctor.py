"""``protoseg doctor``: checks the installation, GPUs, data sets, weights and SLURM."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from protoseg.cli.exit_status import FAILED, OK
from protoseg.cli.slurm_checks import Finding, check_slurm

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.set_defaults(operands=[])
    parser.add_argument(
        "--probe",
        metavar="PARTITION",
        nargs="?",
        const="",
        help="also submit a short job that checks the shared folders from a node",
    )


def run(context: Context) -> int:
    """Print all findings; the exit status is 1 if something is broken."""
    from rich.table import Table
    from rich.text import Text

    findings = [finding for check in _checks(context) for finding in check()]
    if context.json:
        context.print_json([asdict(finding) for finding in findings])
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        marks = {"ok": ("ok", "green"), "absent": ("–", "yellow"), "broken": ("broken", "red")}
        for finding in findings:
            mark, style = marks[finding.state]
            text = Text(finding.found)
            if finding.todo:
                text.append(f"\n{finding.todo}", style="dim")
            table.add_row(Text(mark, style=style), Text(finding.subject), text)
        context.console.print(table)
    return FAILED if any(finding.state == "broken" for finding in findings) else OK


def _checks(context: Context) -> list[Callable[[], list[Finding]]]:
    return [
        lambda: [_check_python()],
        lambda: [_check_packages()],
        _check_torch,
        lambda: [_check_mmseg()],
        lambda: check_slurm(context.paths.runs, getattr(context.arguments, "probe", None)),
        lambda: [_check_run_folders(context)],
        lambda: _check_data_sets(context),
        lambda: _check_weights(context),
    ]


def _check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    is_supported = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "ok" if is_supported else "broken",
        f"{version}, {os.cpu_count()} cores",
        "" if is_supported else "protoseg needs Python 3.11 or newer.",
    )


def _check_packages() -> Finding:
    """Compare the installed packages with those that protoseg requires."""
    from packaging.requirements import Requirement

    problems = []
    required = map(Requirement, importlib.metadata.requires("protoseg") or ())
    needed = [each for each in required if each.marker is None or each.marker.evaluate()]
    for requirement in needed:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version}, needed: {requirement.specifier}")
    if not problems:
        return Finding("packages", "ok", f"{len(needed)} required packages are installed")
    advice = "Install them with pip; in a checkout: make setup."
    return Finding("packages", "broken", "; ".join(problems), advice)


def _check_torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "Install the locked packages: make setup."
        return [Finding("torch", "broken", f"cannot be imported: {error}", advice)]
    findings = [Finding("torch", "ok", torch.__version__)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        findings.append(Finding("GPU", "ok", ", ".join(names)))
    else:
        advice = (
            "Check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES."
            if torch.version.cuda
            else "This torch is a CPU build. For GPUs, install the CUDA build of the same version."
        )
        findings.append(Finding("GPU", "absent", "none; runs train on the CPU", advice))
    return findings


def _check_mmseg() -> Finding:
    names = ("onedl-mmsegmentation", "mmsegmentation")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    # In a separate process: a broken build may crash the interpreter.
    code = (
        "import mmseg.models, protoseg.models; "
        "from protoseg.training.builders.locked_recipes import find_folder; find_folder()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        advice = "Install the locked packages: make setup."
        if "libGL" in last:  # opencv-python without a desktop
            advice = "pip install --force-reinstall --no-deps opencv-python-headless"
        return Finding("mmseg", "broken", f"cannot be imported: {last}", advice)
    return Finding("mmseg", "ok", ", ".join(versions) or "from source")


def _check_run_folders(context: Context) -> Finding:
    folder = context.paths.runs
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    if not os.access(existing, os.W_OK):
        advice = "Choose another folder with --runs or PROTOSEG_RUNS."
        return Finding("run folders", "broken", f"{folder}: not writable", advice)
    free = shutil.disk_usage(existing).free / 2**30
    return Finding("run folders", "ok", f"{folder}, {free:.0f} GiB free")


def _check_data_sets(context: Context) -> list[Finding]:
    from protoseg.config.overrides import Setting

    findings = []
    for name in context.composer.options["dataset"]:
        dataset = context.composer.spec([Setting("dataset", name)], f"data {name}").dataset
        subject = f"data: {name}"
        if dataset.generator:
            findings.append(Finding(subject, "ok", "generated when needed"))
            continue
        root = context.paths.data / dataset.place
        if root.is_dir():
            findings.append(
                Finding(subject, "ok", f"{root} (to check it: protoseg data check {name})")
            )
        else:
            advice = f"Put it into {root}, or name the parent folder with --data."
            findings.append(Finding(subject, "absent", "not found", advice))
    return findings


def _check_weights(context: Context) -> list[Finding]:
    from protoseg.config.overrides import Setting

    findings = []
    for name in context.composer.options["backbone"]:
        backbone = context.composer.spec([Setting("backbone", name)], f"weights {name}").backbone
        if not backbone.weights or backbone.uses_hub:
            continue
        path = context.paths.weights / backbone.weights
        subject = f"weights: {name}"
        if path.is_file():
            findings.append(Finding(subject, "ok", str(path)))
        else:
            advice = f"Put {backbone.weights} into {context.paths.weights}, or use --weights."
            findings.append(Finding(subject, "absent", "not found", advice))
    return findings
