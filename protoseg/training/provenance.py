"""Where a result came from: commit, packages, machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import protoseg

PACKAGES = (
    "torch",
    "numpy",
    "onedl-mmsegmentation",
    "onedl-mmengine",
    "onedl-mmcv",
    "mmsegmentation",
    "mmengine",
    "mmcv",
    "opencv-python",
    "opencv-python-headless",
    "hydra-core",
    "protoseg",
)


def provenance() -> dict[str, Any]:
    """Commit, state of the working tree, lock, package versions, device; no path, no host name."""
    return {
        **_commit(Path(protoseg.__file__).parent.parent),
        "packages": _versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def device_name() -> str:
    """The GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return "CPU " + line.partition(":")[2].strip()
    except OSError:
        pass
    return "CPU " + (platform.processor() or platform.machine())


def _commit(checkout: Path) -> dict[str, Any]:
    lock = checkout / "requirements.lock"
    lock_sha256 = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None
    if not (checkout / ".git").exists():
        return {"commit": None, "dirty": None, "diff_sha256": None, "lock_sha256": lock_sha256}
    commit = _git(checkout, "rev-parse", "HEAD")
    # What matters is the code: a table written under results/ makes no result doubtful.
    code = ("protoseg", "experiments", "slurm", "pyproject.toml", "requirements.lock")
    state = _git(checkout, "status", "--porcelain", "--", *code)
    difference = _git(checkout, "diff", "HEAD", "--", *code)
    return {
        "commit": commit.strip() if commit else None,
        "dirty": bool(state) if state is not None else None,
        "diff_sha256": hashlib.sha256(difference.encode()).hexdigest() if difference else None,
        "lock_sha256": lock_sha256,
    }


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
