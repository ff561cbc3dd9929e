"""``doctor``: what this machine has and lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from protoseg.cli.commands.doctor_slurm import slurm
from protoseg.cli.commands.finding import Finding
from protoseg.cli.context import FAILED, OK, Context
from protoseg.config.compose import Setting


def doctor(context: Context) -> int:
    """Look at everything; exit status 1 where something is broken."""
    findings = [finding for look in _looks(context) for finding in look()]
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


def _looks(context: Context) -> list[Callable[[], list[Finding]]]:
    return [
        lambda: [_python()],
        _torch,
        lambda: [_mmseg()],
        lambda: slurm(context.places.runs, getattr(context.arguments, "probe", None)),
        lambda: [_writable(context)],
        lambda: _data(context),
        lambda: _weights(context),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "ok" if fine else "broken",
        f"{version}, {os.cpu_count()} cores",
        "" if fine else "protoseg needs Python 3.11 or newer.",
    )


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        todo = "Install the lock: make setup."
        return [Finding("torch", "broken", f"does not import: {error}", todo)]
    findings = [Finding("torch", "ok", torch.__version__)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        findings.append(Finding("GPU", "ok", ", ".join(names)))
    else:
        built = torch.version.cuda
        todo = (
            "The driver is missing or hidden (nvidia-smi, CUDA_VISIBLE_DEVICES)."
            if built
            else "This torch is a CPU build; for GPUs install the CUDA build of the same version."
        )
        findings.append(Finding("GPU", "absent", "none; runs train on the CPU", todo))
    return findings


def _mmseg() -> Finding:
    names = ("onedl-mmsegmentation", "mmsegmentation")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    # In a process of its own: a broken build may take the interpreter with it.
    code = (
        "import mmseg.models, protoseg.models; "
        "from protoseg.training.build.config import RECIPES; RECIPES.iterdir()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(
            "mmseg", "broken", f"does not import: {last}", "Install the lock: make setup."
        )
    return Finding("mmseg", "ok", ", ".join(versions) or "from source")


def _writable(context: Context) -> Finding:
    folder = context.places.runs
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    if not os.access(existing, os.W_OK):
        todo = "Choose another folder with --runs or PROTOSEG_RUNS."
        return Finding("run folders", "broken", f"{folder}: not writable", todo)
    free = shutil.disk_usage(existing).free / 2**30
    return Finding("run folders", "ok", f"{folder}, {free:.0f} GiB free")


def _data(context: Context) -> list[Finding]:
    findings = []
    for name in context.composer.options["dataset"]:
        dataset = context.composer.spec([Setting("dataset", name)], f"data {name}").dataset
        subject = f"data: {name}"
        if dataset.generator:
            findings.append(Finding(subject, "ok", "made by the program when needed"))
            continue
        root = context.places.data / dataset.place
        if root.is_dir():
            findings.append(Finding(subject, "ok", f"{root} (protoseg data check {name} reads it)"))
        else:
            todo = f"Put it into {root}, or name its parent with --data."
            findings.append(Finding(subject, "absent", "not found", todo))
    return findings


def _weights(context: Context) -> list[Finding]:
    findings = []
    for name in context.composer.options["backbone"]:
        backbone = context.composer.spec([Setting("backbone", name)], f"weights {name}").backbone
        if not backbone.weights:
            continue
        path = context.places.weights / backbone.weights
        subject = f"weights: {name}"
        if path.is_file():
            findings.append(Finding(subject, "ok", str(path)))
        else:
            todo = f"Put {backbone.weights} into {context.places.weights}, or use --weights."
            findings.append(Finding(subject, "absent", "not found", todo))
    return findings
