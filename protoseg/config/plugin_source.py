"""The source of packages that define parts of a run: their version, and a digest of their modules.

Planning compares the digest with the one in a record, so nothing here imports the package or torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path


def describe_plugin(package: str) -> dict[str, str | None]:
    """The version of a package or module, None if not installed, and the digest of its source."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    paths = [Path(p) for p in (spec and spec.submodule_search_locations) or ()]
    if spec and spec.origin and not paths:
        paths = [Path(spec.origin)]
    paths = [path for path in paths if path.exists()]
    return {
        "version": get_version(package),
        "sha256": hash_modules(*paths) if paths else None,
    }


def get_version(package: str) -> str | None:
    """The version in the metadata of an installed package; None if it has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hash_modules(*paths: Path) -> str:
    """SHA-256 over the names and contents of a package's modules; needs no repository.

    Args:
        paths: the folder or folders of a package, or the file of a module.
    """
    digest = hashlib.sha256()
    for path in paths:
        modules = [path] if path.is_file() else path.rglob("*.py")
        root = path.parent if path.is_file() else path
        for module in sorted(modules, key=lambda module: module.relative_to(root).parts):
            content = module.read_bytes()
            name = module.relative_to(root).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
