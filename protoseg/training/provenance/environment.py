"""Where a result came from: the code of every attempt, packages and lock, device, kernels."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import protoseg
from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.training.provenance.source_code import CodeState, code_digest, code_state

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
LOCKS = {"lock_sha256": "requirements.lock", "lock_mm_sha256": "requirements-mm.lock"}
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def provenance() -> dict[str, Any]:
    """Commit, state of the working tree, locks, packages, device; no path, no host name."""
    return _provenance(code_state(_checkout()))


def begin(folder: RunFolder, outside: Iterable[str] = ()) -> dict[str, Any]:
    """`provenance` at the start of an attempt, with the code of the attempts before it.

    Writes ``attempts/N/code.json``, and ``code.diff`` where the working tree has changes; the
    differing diff of an earlier attempt is kept as ``code-<10 hex digits>.diff``.

    Args:
        outside: packages besides protoseg that the run's parts come from; named with the digest of
            their source, of which nothing is kept.

    Raises:
        ProtosegError: the run folder can not be written.
    """
    state = code_state(_checkout())
    found = _provenance(state)
    _keep_diff(folder.path, state)
    own = {key: found[key] for key in ("commit", "dirty", "diff_sha256", "code_sha256")}
    own |= {key: found[key] for key in (*LOCKS, "device", "threads")}
    own["torch"] = found["packages"]["torch"]
    if others := {package: outside_code(package) for package in outside}:
        found["outside"] = own["outside"] = others
    attempts = folder.attempts()
    if attempts:
        place = folder.attempts_folder / f"{attempts[-1].number:04d}"
        files.create_json(place / "code.json", own)
    found["attempts"] = _attempts(folder, own)
    return found


def _checkout() -> Path:
    return Path(protoseg.__file__).resolve().parent.parent


def _provenance(state: CodeState) -> dict[str, Any]:
    checkout = _checkout()
    note = {"diff_note": state.note} if state.note else {}
    return {
        "commit": state.commit,
        "dirty": state.dirty,
        "diff_sha256": state.diff_sha256,
        "diff_file": "code.diff" if state.diff else None,
        **note,
        "code_sha256": code_digest(checkout / "protoseg"),
        **{key: _sha256(checkout / name) for key, name in LOCKS.items()},
        "lock_differs": lock_differs([checkout / name for name in LOCKS.values()]),
        "packages": _versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "accelerator": accelerator(),
        "threads": torch.get_num_threads(),
    }


def outside_code(package: str) -> dict[str, str | None]:
    """Version, where it is installed as one, and digest of the source of a package or module."""
    spec = importlib.util.find_spec(package)
    places = [Path(p) for p in (spec and spec.submodule_search_locations) or ()]
    if spec and spec.origin and not places:
        places = [Path(spec.origin)]
    places = [place for place in places if place.exists()]
    return {
        "version": _version(package),
        "sha256": code_digest(*places) if places else None,
    }


def _keep_diff(folder: Path, state: CodeState) -> None:
    """Write ``code.diff``, and keep another one that an earlier attempt left there."""
    path = folder / "code.diff"
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = None
    if before is not None and before != state.diff:
        files.write_bytes(folder / other_diff(hashlib.sha256(before).hexdigest()), before)
        if state.diff is None:
            path.unlink()
    if state.diff is not None and before != state.diff:
        files.write_bytes(path, state.diff)


def other_diff(sha256: str) -> str:
    """The name in the run folder of a diff that is not that of the last attempt."""
    return f"code-{sha256[:10]}.diff"


def _attempts(folder: RunFolder, own: dict[str, Any]) -> list[dict[str, Any]]:
    """The code and device of all attempts, one entry for neighbours that are the same.

    An attempt that was lost before it could say is left out where it added nothing to the run.
    """
    attempts = folder.attempts()
    entries: list[dict[str, Any]] = []
    for index, attempt in enumerate(attempts):
        code = files.read_json(folder.attempts_folder / f"{attempt.number:04d}" / "code.json")
        if not isinstance(code, dict):
            last = index + 1 == len(attempts)
            if last or attempts[index + 1].began_at <= attempt.began_at:
                continue
            code = dict.fromkeys(own)
        if entries and {k: entries[-1].get(k) for k in code} == code:
            entries[-1]["last"] = attempt.number
        else:
            entries.append({"first": attempt.number, "last": attempt.number, **code})
    entries = entries or [{"first": 1, "last": 1, **own}]
    for entry in entries:
        sha256 = entry["diff_sha256"]
        name = "code.diff" if sha256 == own["diff_sha256"] else other_diff(str(sha256))
        entry["diff_file"] = name if sha256 and (folder.path / name).is_file() else None
    return entries


def kernels() -> dict[str, Any]:
    """The settings that decide which kernels torch takes, as they are now; None is not known."""
    backends = torch.backends
    settings: dict[str, Callable[[], Any]] = {
        "threads": torch.get_num_threads,
        "interop_threads": torch.get_num_interop_threads,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "cpu_capability": backends.cpu.get_cpu_capability,
        "mkl": backends.mkl.is_available,
        "mkldnn": lambda: backends.mkldnn.is_available() and backends.mkldnn.enabled,
        "mkldnn_deterministic": lambda: backends.mkldnn.deterministic,
        "cudnn": lambda: backends.cudnn.is_available() and backends.cudnn.enabled,
        "cudnn_benchmark": lambda: backends.cudnn.benchmark,
        "cudnn_deterministic": lambda: backends.cudnn.deterministic,
        "cudnn_tf32": lambda: backends.cudnn.allow_tf32,
        "matmul_tf32": lambda: backends.cuda.matmul.allow_tf32,
        "cublas_workspace": lambda: os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }
    found: dict[str, Any] = {}
    for name, read in settings.items():
        try:
            value = read()
        except (AttributeError, RuntimeError):  # another version's torch, or its newer switches
            value = None
        found[name] = value if isinstance(value, bool | int | str) else None
    return found


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


def accelerator() -> dict[str, Any] | None:
    """CUDA and cuDNN of torch, compute capability, and the driver's version; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": driver_version(NVIDIA_DRIVER),
    }


def driver_version(file: Path) -> str | None:
    """The version in what NVIDIA's kernel module says of itself."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", file.read_text())
    except OSError:
        return None
    return found[1] if found else None


def lock_differs(locks: list[Path]) -> dict[str, list[str | None]] | None:
    """Compare the installed packages with the versions in the locks.

    The build of a version (``+cpu``) depends on the package index. It is compared only where the
    lock names one.

    Returns:
        Name -> [locked, installed] of each package that differs; None if there is no lock.
    """
    present = [lock for lock in locks if lock.is_file()]
    if not present:
        return None
    differing: dict[str, list[str | None]] = {}
    for lock in present:
        for line in lock.read_text(encoding="utf-8").splitlines():
            name, equals, locked = line.partition("#")[0].partition(";")[0].partition("==")
            if not equals:
                continue
            name, locked = name.strip(), locked.strip()
            installed = _version(name)
            compared = installed
            if installed is not None and "+" not in locked:
                compared = installed.partition("+")[0]
            if compared != locked:
                differing[name] = [locked, installed]
    return differing


def _sha256(path: Path) -> str | None:
    return files.file_digest(path) if path.is_file() else None


def _version(name: str) -> str | None:
    """The version of an installed package; of torch always with its build (``+cpu``, ``+cu130``).

    The metadata of PyPI's torch leave the build out.
    """
    if name.lower() == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    return {name: version for name in PACKAGES if (version := _version(name)) is not None}
