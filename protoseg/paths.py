"""The folders on this machine: experiments, runs, records, data, weights, results, clusters.

Each is chosen by an option, else by an environment variable, else by the root of the call: the
nearest folder with ``protoseg.yaml`` (a project) or ``experiments/run.yaml`` (a checkout).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

import protoseg
from protoseg.errors import UsageError, describe_unknown_name

PROJECT_FILE = "protoseg.yaml"
PROJECT_VERSION = 1
"""Version of the format of `PROJECT_FILE`."""
SHIPPED = Path("protoseg", "shipped")
"""Folder of the packaged files in an installed package, beside ``protoseg``."""
DEFAULTS = {
    "experiments": "experiments",
    "runs": "runs",
    "results": "results",
    "data": "data",
    "weights": "",  # in the data folder
    "clusters": "slurm",
}
"""Folder -> its default, relative to the root."""


@dataclass(frozen=True)
class Paths:
    """The folders that a command uses; not part of a run's identity."""

    experiments: Path
    """Matrices and config groups; PROTOSEG_EXPERIMENTS, or ``experiments`` in the root."""
    runs: Path
    """Run folders; PROTOSEG_RUNS, or ``runs`` in the root."""
    records: Path
    """Published records, ``records`` in ``results``; a run with a record is not trained again."""
    results: Path
    """PROTOSEG_RESULTS, or ``results`` in the root."""
    data: Path
    """Data sets, one folder each; PROTOSEG_DATA, or ``data`` in the root."""
    weights: Path
    """Pre-trained weights; PROTOSEG_WEIGHTS, or ``weights`` in the data folder."""
    clusters: Path
    """Cluster profiles; PROTOSEG_CLUSTERS, or ``slurm`` in the root."""
    shipped: tuple[Path, ...] = ()
    """Other folders of results that are read too; see `find_shipped_results`."""
    other_experiments: tuple[Path, ...] = ()
    """Folders of the files that ``experiments`` does not have."""
    other_clusters: tuple[Path, ...] = ()
    """Folders of the profiles that ``clusters`` does not have."""
    project: Path | None = None
    """Root of the project; None outside of projects."""

    @property
    def published(self) -> tuple[Path, ...]:
        """Folders of published numbers, in the order of their search."""
        return tuple(folder / "published" for folder in (self.results, *self.shipped))

    @property
    def record_folders(self) -> tuple[Path, ...]:
        """Folders of committed records, in the order of their search."""
        return (self.records, *(folder / "records" for folder in self.shipped))


def find_project() -> Path | None:
    """Find the root of the project of the current folder; None outside, or in a checkout below."""
    root = find_nearest_root(Path.cwd())
    return root if root is not None and (root / PROJECT_FILE).is_file() else None


def find_root(start: Path | None = None) -> Path:
    """Find the root of a folder, by default of the current one.

    The project or checkout of the current folder; else the checkout that protoseg is imported
    from; else, with an installed package, the current folder.
    """
    root = find_nearest_root(start or Path.cwd())
    if root is not None:
        return root
    package = find_package_folder()
    return package if _is_checkout(package) else Path.cwd()


def find_package_folder() -> Path:
    """Return the folder that ``protoseg`` is imported from: a checkout, or site-packages."""
    return Path(protoseg.__file__).resolve().parent.parent


def find_packaged_files() -> Path:
    """Return the folder with the experiments, profiles and results that come with the program."""
    package = find_package_folder()
    return package if _is_checkout(package) else package / SHIPPED


def find_shipped_results() -> tuple[Path, ...]:
    """Return the folders of results that come with the program.

    Matrices name the published numbers in them, so they are read wherever PROTOSEG_RESULTS is.
    """
    roots = dict.fromkeys((find_root(), find_packaged_files()))
    return tuple(root / "results" for root in roots)


def find_paths(start: Path | None = None, **options: str | None) -> Paths:
    """Choose the folders: an option first, then the environment variable, then the root.

    Args:
        start: a folder in the root; the current one by default.
        options: the names of `DEFAULTS`, each a folder, or None for an option that is not given.

    Raises:
        UsageError: the project file is not valid.
    """
    root, packaged = find_root(start), find_packaged_files()
    is_project = (root / PROJECT_FILE).is_file()
    folders = {**DEFAULTS, **(read_project_file(root) if is_project else {})}
    own = {name: root / _expand(folder, name) for name, folder in folders.items()}

    def choose(name: str, default: Path) -> Path:
        folder = options.get(name) or os.environ.get(f"PROTOSEG_{name.upper()}")
        return Path(folder or default).expanduser().absolute()

    chosen = {name: choose(name, own[name]) for name in DEFAULTS if name != "weights"}
    weights = own["weights"] if folders["weights"] else chosen["data"] / "weights"
    results = chosen["results"]

    def find_others(name: str) -> tuple[Path, ...]:
        """Return the packaged folder; nothing if the chosen folder is complete without it."""
        is_other = chosen[name].resolve() != own[name].resolve()
        is_complete = is_other or (_is_checkout(root) and not is_project)
        return () if is_complete else (packaged / DEFAULTS[name],)

    return Paths(
        **chosen,
        weights=choose("weights", weights),
        records=results / "records",
        shipped=tuple(f for f in find_shipped_results() if f != results),
        other_experiments=find_others("experiments"),
        other_clusters=find_others("clusters"),
        project=root if is_project else None,
    )


def _expand(folder: str, name: str) -> Path:
    """Replace ``~`` and variables in a folder of the project file."""
    expanded = os.path.expandvars(folder)
    if "$" in expanded:
        raise UsageError(
            f"{PROJECT_FILE}: {name}: '{folder}' has a variable that is not set here. Set it, or "
            "write the folder."
        )
    return Path(expanded).expanduser()


def read_project_file(project: Path) -> dict[str, str]:
    """Read the folders that a project file names.

    Args:
        project: root of the project.

    Returns:
        Name in `DEFAULTS` -> folder as typed, relative to the project.

    Raises:
        UsageError: the file is not readable, has another version, an unknown key or another value.
    """
    path = project / PROJECT_FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not a readable YAML file: {reason}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected keys and values, e.g. 'version: {PROJECT_VERSION}'.")
    version = content.pop("version", None)
    if version != PROJECT_VERSION:
        raise UsageError(
            f"{path}: version: found {version!r}. This protoseg ({protoseg.__version__}) reads "
            f"version {PROJECT_VERSION}. Install the protoseg that the project was made with, or "
            "compare the file with that of a new project (protoseg init)."
        )
    for key, value in content.items():
        if key not in DEFAULTS:
            raise UsageError(describe_unknown_name("key", str(key), str(path), DEFAULTS))
        if not isinstance(value, str) or not value:
            raise UsageError(f"{path}: {key}: expected a folder, found {value!r}.")
    return content


def find_nearest_root(start: Path) -> Path | None:
    """Find the nearest project or checkout: a folder, or the first one above it; None without."""
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file() or _is_checkout(folder):
            return folder
    return None


def _is_checkout(folder: Path) -> bool:
    return (folder / "experiments" / "run.yaml").is_file()
