"""The environment of a run: code of each attempt, packages, lock files, device, kernels."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import protoseg
from protoseg import files
from protoseg.config.plugin_source import describe_plugin, get_version, hash_modules
from protoseg.paths import SHIPPED, find_project
from protoseg.runs.folder import RunFolder
from protoseg.training.machine.device import (
    describe_accelerator,
    get_device_name,
    get_torch_libraries,
)
from protoseg.training.provenance.source_code import (
    CodeState,
    read_code_state,
    read_project_state,
)

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
    "timm",
    "protoseg",
)
LOCKS = {"lock_sha256": "requirements.lock", "lock_mm_sha256": "requirements-mm.lock"}


def collect_provenance() -> dict[str, Any]:
    """Commit, changes of the working tree, locks, packages and device; no paths or host names."""
    return _collect_provenance(read_code_state(_get_checkout()), find_project())


def record_attempt_code(
    folder: RunFolder, plugins: Iterable[str] = (), project: Path | None = None
) -> dict[str, Any]:
    """Record the code of the attempt that starts, and collect the provenance of the run.

    Writes ``attempts/N/code.json``, and ``code.diff`` if the working tree has changes. A different
    diff of an earlier attempt is kept as ``code-<10 hex digits>.diff``.

    Args:
        plugins: other packages that define parts of the run. They are recorded with the digest of
            their source, without the source.
        project: root of the project of the sweep; its commit is recorded too.

    Returns:
        The result of `collect_provenance`, and ``attempts`` with the code of each attempt.

    Raises:
        ProtosegError: the run folder cannot be written.
    """
    state = read_code_state(_get_checkout())
    collected = _collect_provenance(state, project)
    _write_diff(folder.path, state)
    code = {key: collected[key] for key in ("commit", "dirty", "diff_sha256", "code_sha256")}
    code |= {key: collected[key] for key in (*LOCKS, "device", "threads")}
    code["torch"] = collected["packages"]["torch"]
    if plugin_code := {package: describe_plugin(package) for package in plugins}:
        collected["outside"] = code["outside"] = plugin_code
    attempts = folder.attempts()
    if attempts:
        attempt_folder = folder.attempts_folder / f"{attempts[-1].number:04d}"
        files.create_json(attempt_folder / "code.json", code)
    collected["attempts"] = _collect_attempts(folder, code)
    return collected


def _get_checkout() -> Path:
    return Path(protoseg.__file__).resolve().parent.parent


def _collect_provenance(state: CodeState, project: Path | None) -> dict[str, Any]:
    checkout = _get_checkout()
    shipped = checkout / SHIPPED
    packaged = shipped if shipped.is_dir() else checkout
    note = {"diff_note": state.note} if state.note else {}
    own = read_project_state(project) if project else None
    return {
        "commit": state.commit,
        "dirty": state.dirty,
        "diff_sha256": state.diff_sha256,
        "diff_file": "code.diff" if state.diff else None,
        **note,
        **({"project": {"commit": own.commit, "dirty": own.dirty}} if own else {}),
        "code_sha256": hash_modules(checkout / "protoseg"),
        **{key: _hash_file(packaged / name) for key, name in LOCKS.items()},
        "lock_differs": compare_locks([packaged / name for name in LOCKS.values()]),
        "packages": _get_versions(),
        "torch_libraries": get_torch_libraries(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": get_device_name(),
        "accelerator": describe_accelerator(),
        "threads": torch.get_num_threads(),
    }


def _write_diff(folder: Path, state: CodeState) -> None:
    """Write ``code.diff``; rename a different one that an earlier attempt wrote."""
    path = folder / "code.diff"
    try:
        old_diff = path.read_bytes()
    except FileNotFoundError:
        old_diff = None
    if old_diff is not None and old_diff != state.diff:
        old_sha256 = hashlib.sha256(old_diff).hexdigest()
        files.write_bytes(folder / old_diff_name(old_sha256), old_diff)
        if state.diff is None:
            path.unlink()
    if state.diff is not None and old_diff != state.diff:
        files.write_bytes(path, state.diff)


def old_diff_name(sha256: str) -> str:
    """The file name of a diff that differs from the diff of the last attempt."""
    return f"code-{sha256[:10]}.diff"


def _collect_attempts(folder: RunFolder, own_code: dict[str, Any]) -> list[dict[str, Any]]:
    """The code and device of all attempts; consecutive equal attempts share one entry.

    An attempt that ended before it wrote its code is omitted if it did not train any iteration.
    """
    attempts = folder.attempts()
    entries: list[dict[str, Any]] = []
    for index, attempt in enumerate(attempts):
        code = files.read_json(folder.attempts_folder / f"{attempt.number:04d}" / "code.json")
        if not isinstance(code, dict):
            is_last = index + 1 == len(attempts)
            if is_last or attempts[index + 1].began_at <= attempt.began_at:
                continue
            code = dict.fromkeys(own_code)
        if entries and {k: entries[-1].get(k) for k in code} == code:
            entries[-1]["last"] = attempt.number
        else:
            entries.append({"first": attempt.number, "last": attempt.number, **code})
    entries = entries or [{"first": 1, "last": 1, **own_code}]
    for entry in entries:
        sha256 = entry["diff_sha256"]
        is_current = sha256 == own_code["diff_sha256"]
        name = "code.diff" if is_current else old_diff_name(str(sha256))
        entry["diff_file"] = name if sha256 and (folder.path / name).is_file() else None
    return entries


def read_kernel_settings() -> dict[str, Any]:
    """The current settings that determine torch's kernels; None for an unknown one."""
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
    values: dict[str, Any] = {}
    for name, read_setting in settings.items():
        try:
            value = read_setting()
        except (AttributeError, RuntimeError):  # another version of torch, without this setting
            value = None
        values[name] = value if isinstance(value, bool | int | str) else None
    return values


def compare_locks(locks: list[Path]) -> dict[str, list[str | None]] | None:
    """Compare the installed packages with the versions in the lock files.

    The build of a version (``+cpu``) depends on the package index. It is compared only if the lock
    names one.

    Returns:
        Name -> [locked, installed] of each package that differs; None without a lock file.
    """
    existing = [lock for lock in locks if lock.is_file()]
    if not existing:
        return None
    differing: dict[str, list[str | None]] = {}
    for lock in existing:
        for line in lock.read_text(encoding="utf-8").splitlines():
            name, equals, locked = line.partition("#")[0].partition(";")[0].partition("==")
            if not equals:
                continue
            name, locked = name.strip(), locked.strip()
            installed = _get_version(name)
            compared = installed
            if installed is not None and "+" not in locked:
                compared = installed.partition("+")[0]
            if compared != locked:
                differing[name] = [locked, installed]
    return differing


def _hash_file(path: Path) -> str | None:
    return files.file_digest(path) if path.is_file() else None


def _get_version(name: str) -> str | None:
    """The version of an installed package; torch's includes the build (``+cpu``, ``+cu130``).

    The metadata of torch from PyPI lack the build.
    """
    if name.lower() == "torch":
        return str(torch.__version__)
    return get_version(name)


def _get_versions() -> dict[str, str]:
    return {name: version for name in PACKAGES if (version := _get_version(name)) is not None}
