"""``weights``: which pre-trained weights there are and where they come from; fetching them."""

from __future__ import annotations

import sys

from rich.progress import DownloadColumn, Progress
from rich.table import Table
from rich.text import Text

from protoseg import files
from protoseg.cli.context import OK, Context
from protoseg.config.compose import Setting
from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError, ProtosegError, UsageError, unknown


def weights(context: Context) -> int:
    """Run ``weights``, ``weights list`` or ``weights get BACKBONE...``."""
    words: list[str] = context.arguments.words or ["list"]
    actions = {"list": _list, "get": _get}
    if words[0] not in actions:
        raise UsageError(unknown("action", words[0], "weights", actions))
    return actions[words[0]](context, words[1:])


def _backbone(context: Context, name: str) -> BackboneSpec:
    return context.composer.spec([Setting("backbone", name)], f"weights {name}").backbone


def _list(context: Context, words: list[str]) -> int:
    from protoseg.training.weights.download import address

    if words:
        raise UsageError(f"weights list: takes no further words, found '{words[0]}'.")
    found = {n: _backbone(context, n) for n in context.composer.options["backbone"]}
    rows = [
        {
            "backbone": name,
            "file": backbone.weights,
            "sha256": backbone.weights_sha256,
            "here": (context.places.weights / backbone.weights).is_file(),
            "address": address(backbone),
        }
        for name, backbone in found.items()
        if backbone.weights
    ]
    if context.json:
        context.print_json({"folder": str(context.places.weights), "weights": rows})
        return OK
    table = Table(box=None, pad_edge=False)
    for title in ("Backbone", "File", "Here", "Address"):
        table.add_column(title, header_style="dim", overflow="fold")
    for row in rows:
        here = "yes" if row["here"] else "no"
        source = str(row["address"]) or "none known"
        table.add_row(*(Text(str(v)) for v in (row["backbone"], row["file"], here, source)))
    context.console.print(table)
    context.console.print(f"in {context.places.weights}", style="dim", markup=False)
    return OK


def _get(context: Context, words: list[str]) -> int:
    known = context.composer.options["backbone"]
    if not words:
        raise UsageError(f"weights get: name a backbone. Known: {', '.join(known)}.")
    for name in words:
        if name not in known:
            raise UsageError(unknown("backbone", name, "weights get", known))
    states, problems = {}, []
    for name in words:
        try:
            states[name] = _fetch(context, _backbone(context, name))
        except ProtosegError as error:
            problems.append(str(error))
            continue
        if not context.json:
            context.console.print(f"{name}: {states[name]}", style="green", markup=False)
    if context.json:
        context.print_json({"weights": states, "problems": problems})
    return context.print_errors(problems)


def _fetch(context: Context, backbone: BackboneSpec) -> str:
    """Bring one file into the weights folder; what was done, in words."""
    from protoseg.training.weights.download import address, download
    from protoseg.training.weights.load import find_weights

    if not backbone.weights:
        return "starts from random weights"
    path = context.places.weights / backbone.weights
    if path.is_file():
        find_weights(backbone, context.places.weights)
        return f"there already, {path}"
    url = address(backbone)
    if not url:
        raise DataError(
            f"{backbone.weights}: no public address is known; docs/models.md says what it is. "
            f"Put it into {context.places.weights}."
        )
    files.make_folder(path.parent)
    if context.json or not sys.stdout.isatty():
        download(url, path, backbone.weights_sha256)
    else:
        columns = (*Progress.get_default_columns(), DownloadColumn())
        with Progress(*columns, console=context.console, transient=True) as progress:
            task = progress.add_task(backbone.weights, total=None)
            download(
                url,
                path,
                backbone.weights_sha256,
                lambda done, total: progress.update(task, completed=done, total=total or None),
            )
    return f"fetched, {path}"
