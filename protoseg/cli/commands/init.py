"""``protoseg init``: makes a project, a folder for one's own matrices, data sets and results."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.exit_status import OK
from protoseg.cli.outputs import display_path
from protoseg.errors import ProtosegError, UsageError
from protoseg.files import make_folder, write_bytes
from protoseg.paths import PROJECT_FILE, find_nearest_root

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from protoseg.cli.context import Context

EXAMPLE = "protoseg init my_project"
RENAMED = {"gitignore": ".gitignore"}
"""Template -> name in the project; as ``.gitignore`` it would apply to the templates."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("operands", nargs=1, metavar="DIR", help="the new folder, or an empty one")


def run(context: Context) -> int:
    """Write the files of a project into a new or empty folder."""
    folder = Path(context.arguments.operands[0]).expanduser().absolute()
    _check_folder(folder)
    templates = resources.files("protoseg.cli") / "templates" / "project"
    written = [_write_file(folder, name, path) for name, path in _list_files(templates)]
    if context.json:
        context.print_json({"project": str(folder), "files": written})
        return OK
    context.console.print(f"A new project in {folder}:", markup=False)
    for name in written:
        context.console.print(f"  {name}", markup=False)
    context.console.print(
        f"Next: cd {display_path(folder)} && protoseg sweep first && protoseg tables first",
        markup=False,
    )
    return OK


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files, and one inside of a project or checkout.

    Raises:
        UsageError: the folder cannot become a project.
        ProtosegError: it cannot be read.
    """
    outer = find_nearest_root(folder)
    if outer == folder and (folder / PROJECT_FILE).is_file():
        raise UsageError(f"init: {folder}: is a project already, and was not changed.")
    if outer is not None:
        root = "project" if (outer / PROJECT_FILE).is_file() else "checkout"
        raise UsageError(
            f"init: {folder}: is inside of the {root} {outer}. Name a folder outside of it."
        )
    try:
        has_files = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise ProtosegError(f"init: {folder}: {error.strerror}.") from error
    if has_files:
        raise UsageError(f"init: {folder}: is not empty. Name a new or an empty folder.")


def _list_files(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    files = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = prefix + RENAMED.get(entry.name, entry.name)
        files += _list_files(entry, f"{name}/") if entry.is_dir() else [(name, entry)]
    return files


def _write_file(folder: Path, name: str, template: Traversable) -> str:
    path = folder / name
    text = template.read_text(encoding="utf-8").replace("{name}", folder.name)
    make_folder(path.parent)
    write_bytes(path, text.encode())
    return name
