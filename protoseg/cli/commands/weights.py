"""``protoseg weights``: lists and downloads pre-trained weights."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from protoseg import files
from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import OK
from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError, ProtosegError, UsageError, describe_unknown_name

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg weights get mobilenet_v2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "list | get BACKBONE",
        "list (default): files and addresses; get: download the weights of these backbones",
    )


def run(context: Context) -> int:
    """Run ``weights list`` or ``weights get BACKBONE...``."""
    action, *names = context.arguments.operands or ["list"]
    actions = {"list": _list_weights, "get": _download_weights}
    if action not in actions:
        raise UsageError(describe_unknown_name("action", action, "weights", actions))
    return actions[action](context, names)


def _compose_backbone(context: Context, name: str) -> BackboneSpec:
    from protoseg.config.overrides import Setting

    return context.composer.spec([Setting("backbone", name)], f"weights {name}").backbone


def _list_weights(context: Context, names: list[str]) -> int:
    from rich.table import Table
    from rich.text import Text

    from protoseg.training.weights.download import find_address

    if names:
        raise UsageError(f"weights list: takes no names, found '{names[0]}'. Remove it.")
    backbones = {
        name: _compose_backbone(context, name) for name in context.composer.options["backbone"]
    }
    rows = [
        {
            "backbone": name,
            "file": backbone.weights,
            "sha256": backbone.weights_sha256,
            "here": (context.paths.weights / backbone.weights).is_file(),
            "address": find_address(backbone),
        }
        for name, backbone in backbones.items()
        if backbone.weights and not backbone.uses_hub
    ]
    if context.json:
        context.print_json({"folder": str(context.paths.weights), "weights": rows})
        return OK
    table = Table(box=None, pad_edge=False)
    for title in ("Backbone", "File", "Here", "Address"):
        table.add_column(title, header_style="dim", overflow="fold")
    for row in rows:
        is_here = "yes" if row["here"] else "no"
        address_text = str(row["address"]) or "unknown"
        cells = (row["backbone"], row["file"], is_here, address_text)
        table.add_row(*(Text(str(cell)) for cell in cells))
    context.console.print(table)
    context.console.print(f"in {context.paths.weights}", style="dim", markup=False)
    return OK


def _download_weights(context: Context, names: list[str]) -> int:
    known = context.composer.options["backbone"]
    if not names:
        raise UsageError(f"weights get: name a backbone. Known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise UsageError(describe_unknown_name("backbone", name, "weights get", known))
    states, problems = {}, []
    for name in names:
        try:
            states[name] = _download(context, _compose_backbone(context, name))
        except ProtosegError as error:
            problems.append(str(error))
            continue
        if not context.json:
            context.console.print(f"{name}: {states[name]}", style="green", markup=False)
    if context.json:
        context.print_json({"weights": states, "problems": problems})
    return context.print_errors(problems)


def _download(context: Context, backbone: BackboneSpec) -> str:
    """Download one file into the weights folder; return what was done."""
    from rich.progress import DownloadColumn, Progress

    from protoseg.training.weights.download import download_weights, find_address
    from protoseg.training.weights.load import find_weights

    if not backbone.weights:
        return "has no pre-trained weights"
    if backbone.uses_hub:
        return f"in the hub's cache, {find_weights(backbone, context.paths.weights)}"
    path = context.paths.weights / backbone.weights
    if path.is_file():
        find_weights(backbone, context.paths.weights)
        return f"exists already, {path}"
    url = find_address(backbone)
    if not url:
        raise DataError(
            f"{backbone.weights}: no public address is known. docs/models.md describes the file. "
            f"Put it into {context.paths.weights}."
        )
    files.make_folder(path.parent)
    if context.json or not sys.stdout.isatty():
        download_weights(url, path, backbone.weights_sha256)
    else:
        columns = (*Progress.get_default_columns(), DownloadColumn())
        with Progress(*columns, console=context.console, transient=True) as progress:
            task = progress.add_task(backbone.weights, total=None)
            download_weights(
                url,
                path,
                backbone.weights_sha256,
                lambda done, total: progress.update(task, completed=done, total=total or None),
            )
    return f"downloaded, {path}"
