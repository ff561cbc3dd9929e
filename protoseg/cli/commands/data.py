"""``protoseg data``: lists, prepares, checks and shows data sets."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_operands, count, positive
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.errors import DataError, ProtosegError, UsageError, describe_unknown_name

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.datasets.check import DataSetReport

EXAMPLE = "protoseg data check camvid"
BROWSE_OPTIONS = ("into", "split", "count", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "list | prepare NAME --from DIR | check NAME | browse NAME --into FILE | init DIR",
        "list: all data sets; prepare: convert the published files; check: read all files and "
        "compare them with the config; browse: show augmented training samples beside their label "
        "maps; init: write a config for the files of a folder",
    )
    group = parser.add_argument_group("prepare, check, browse, init")
    group.add_argument(
        "--from", dest="source", metavar="DIR", help="prepare: folder of the published files"
    )
    group.add_argument("--name", metavar="NAME", help="init: name of the data set")
    group.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="parallel processes (default: prepare 1, check the number of cores)",
    )
    group.add_argument(
        "--into", metavar="FILE", help="browse: a file .html or .png, or a folder for both"
    )
    group.add_argument("--split", metavar="SPLIT", help="browse: default: the training split")
    group.add_argument(
        "--count", type=positive, metavar="N", help="browse: number of samples (default: 16)"
    )
    group.add_argument(
        "--seed", type=count, metavar="N", help="browse: seed of the training (default: 0)"
    )


def run(context: Context) -> int:
    """Run ``data list``, ``prepare NAME --from DIR``, ``check NAME``, ``browse NAME`` or ``init``.

    Each action takes its options only.
    """
    actions = {"list": _list_data_sets, "prepare": _prepare, "check": _check, "init": _init}
    actions["browse"] = _browse
    if not context.arguments.operands:
        raise UsageError(
            "data: name an action: data list, data prepare NAME, data check NAME, data browse NAME "
            "or data init DIR."
        )
    action, *operands = context.arguments.operands
    if action not in actions:
        raise UsageError(describe_unknown_name("action", action, "data", actions))
    owners = {"from": "prepare", "name": "init"}
    for option, owner in (owners | dict.fromkeys(BROWSE_OPTIONS, "browse")).items():
        value = getattr(context.arguments, {"from": "source"}.get(option, option))
        if action != owner and value is not None:
            raise UsageError(
                f"data {action}: --{option} is an option of data {owner} only. Remove it."
            )
    try:
        return actions[action](context, operands)
    except PermissionError as error:
        raise DataError(
            f"{error.filename}: cannot be read (no permission). Change its permissions, or name "
            "another folder."
        ) from error


def _list_data_sets(context: Context, operands: list[str]) -> int:
    from rich.table import Table
    from rich.text import Text

    if operands:
        raise UsageError(f"data list: takes no names, found '{operands[0]}'. Remove it.")
    rows = []
    for name in _data_set_names(context):
        dataset = compose_data_set(context, name, [])
        folder = context.paths.data / dataset.place
        if dataset.generator:
            state = "generated when needed"
        else:
            state = f"in {folder}" if folder.is_dir() else f"not in {context.paths.data}"
        rows.append({"name": name, "classes": len(dataset.classes), "state": state})
    if context.json:
        context.print_json(rows)
        return OK
    table = Table(box=None, pad_edge=False)
    for title in ("Data set", "Classes", "Where"):
        table.add_column(title, header_style="dim")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    context.console.print(table)
    return OK


def _prepare(context: Context, names: list[str]) -> int:
    from protoseg.datasets.prepare.registry import PREPARATIONS
    from protoseg.datasets.prepare.runner import prepare_data_set, raise_if_nested

    if len(names) != 1 or not context.arguments.source:
        raise UsageError("data prepare: name one data set and its source: NAME --from DIR.")
    dataset = compose_data_set(context, names[0], [])
    if dataset.place not in PREPARATIONS:
        known = [
            name
            for name in _data_set_names(context)
            if compose_data_set(context, name, []).place in PREPARATIONS
        ]
        raise UsageError(
            f"data prepare: '{names[0]}' needs no preparation. Data sets to prepare: "
            f"{', '.join(known)}. Put its files into {context.paths.data / dataset.place}."
        )
    source = Path(context.arguments.source).expanduser().absolute()
    target = context.paths.data / dataset.place
    raise_if_nested(source, target)
    with context.progress_bar(f"reading {source.name}") as progress:
        plan = PREPARATIONS[dataset.place](source, dataset)
        progress.rename(f"preparing {dataset.place}")
        manifest = prepare_data_set(
            plan, dataset, target, jobs=context.arguments.jobs or 1, progress=progress.update
        )
    if context.json:
        context.print_json(manifest)
    else:
        _show_prepared(context, dataset, target, manifest)
    return OK


def _show_prepared(
    context: Context, dataset: DatasetSpec, target: Path, manifest: dict[str, Any]
) -> None:
    files = ", ".join(f"{count} {how}" for how, count in sorted(manifest["files"].items()))
    line = f"{dataset.name}: ready in {target}: {files}"
    if manifest["already_there"]:
        line += f"; {manifest['already_there']} of them existed"
    context.console.print(line, style="green", markup=False)
    for split, images in manifest["images"].items():
        whole = dataset.counts.get(split, images)
        missing = "" if images == whole else f"; the whole data set has {whole}"
        context.console.print(f"  {split}: {images} images{missing}", markup=False)
    for key, value in manifest["details"].items():
        context.console.print(f"  {key.replace('_', ' ')}: {value}", markup=False)
    context.console.print(f"digest {manifest['digest']}")


def _check(context: Context, operands: list[str]) -> int:
    from protoseg.cli.views.data_check import show_check

    overrides = [operand for operand in operands if "=" in operand]
    names = [operand for operand in operands if "=" not in operand]
    if not names:
        known = ", ".join(_data_set_names(context))
        raise UsageError(f"data check: name a data set. Known: {known}.")
    reports, problems = [], []
    for name in names:
        spec = _compose_run(context, name, overrides)
        try:
            report = _check_data_set(context, spec.dataset)
        except ProtosegError as error:
            problems.append(str(error))
            continue
        use = {spec.dataset.train_split: "training", spec.evaluation.split: "evaluation"}
        reports.append({**report.to_dict(), "used_for": use})
        if not context.json:
            show_check(context.console, report, spec)
    if context.json:
        context.print_json({"reports": reports, "problems": problems})
    return context.print_errors(problems) and FAILED


def _browse(context: Context, operands: list[str]) -> int:
    arguments = context.arguments
    overrides = [operand for operand in operands if "=" in operand]
    names = [operand for operand in operands if "=" not in operand]
    if len(names) != 1 or not arguments.into:
        raise UsageError(
            "data browse: name one data set and a file: data browse NAME --into FILE.html."
        )
    target = Path(arguments.into).expanduser().absolute()
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    spec = _compose_run(context, names[0], overrides)
    split = arguments.split or spec.dataset.train_split
    number = arguments.count or 16
    samples = []
    with (
        contextlib.redirect_stdout(io.StringIO()),  # mmseg and mmcv print at their import
        context.progress_bar(f"reading {spec.dataset.name}") as progress,
    ):
        from protoseg.training.browse.samples import load_samples
        from protoseg.training.browse.sheet import Sheet, list_targets, write_sheets

        list_targets(target)  # checked before the images are read
        for sample in load_samples(spec, context.paths.data, split, number):
            samples.append(sample)
            progress.update(len(samples), number)
    height, width = samples[0].labels.shape
    title = f"{spec.dataset.name}, {split}, seed {spec.seed}, {width} x {height} pixels"
    paths = [str(path) for path in write_sheets(Sheet(samples, spec.dataset, title), target)]
    if context.json:
        context.print_json({"samples": len(samples), "files": paths})
    else:
        text = f"{len(samples)} samples of {spec.dataset.name}, {split}: {', '.join(paths)}"
        context.console.print(text, style="green", markup=False)
    return OK


def _data_set_names(context: Context) -> list[str]:
    return context.composer.options["dataset"]


def compose_data_set(context: Context, name: str, overrides: list[str]) -> DatasetSpec:
    """Compose the spec of a data set.

    Args:
        name: of the data set: of a config in experiments/dataset.
        overrides: changes of its values, in Hydra's grammar.

    Raises:
        UsageError: an unknown data set, or an override that is refused.
    """
    return _compose_run(context, name, overrides).dataset


def _compose_run(context: Context, name: str, overrides: list[str]) -> RunSpec:
    from protoseg.config.overrides import Setting, parse_overrides

    names = _data_set_names(context)
    if name not in names:
        raise UsageError(describe_unknown_name("data set", name, context.verb, names))
    # Not parsed as an override: the name may have characters that Hydra's grammar does not allow.
    settings = [setting for _, values in parse_overrides(overrides) for setting in values]
    return context.composer.spec([Setting("dataset", name), *settings], f"{context.verb} {name}")


def _check_data_set(context: Context, dataset: DatasetSpec) -> DataSetReport:
    from protoseg.datasets.check import check_data_set
    from protoseg.datasets.layout import find_root

    root = find_root(dataset, context.paths.data)
    with context.progress_bar(f"reading {dataset.name}") as progress:
        return check_data_set(root, dataset, jobs=context.arguments.jobs, progress=progress.update)


def _init(context: Context, operands: list[str]) -> int:
    from protoseg.cli.views.data_init import show_guess
    from protoseg.datasets.discovery.description import describe_guess
    from protoseg.datasets.discovery.guess import guess_data_set
    from protoseg.files import make_folder, write_bytes

    if len(operands) != 1:
        raise UsageError("data init: name one folder, with the published files: data init DIR.")
    root = Path(operands[0]).expanduser().absolute()
    name = context.arguments.name or re.sub(r"\W+", "_", root.name.lower()).strip("_")
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise UsageError(
            f"data init: '{name}' is no name of a data set. Use letters, digits and _ with --name."
        )
    target = context.paths.experiments / "dataset" / f"{name}.yaml"
    folders = ConfigFolders(context.paths.experiments, context.paths.other_experiments)
    existing = folders.find(f"dataset/{name}.yaml")
    if existing.exists():
        raise UsageError(
            f"{existing}: exists already, and was not changed. Choose another name with --name."
        )
    with context.progress_bar(f"reading {root.name}") as progress:
        guess = guess_data_set(root, name, progress.update)
    link = context.paths.data / name
    data = context.paths.data.absolute()
    if root != data / name and root.is_relative_to(data) and root != data:
        guess.fields["folder"] = root.relative_to(data).as_posix()
        link = root
    make_folder(target.parent)
    write_bytes(target, describe_guess(guess).encode())
    if context.json:
        context.print_json({"file": str(target), **dataclasses.asdict(guess)})
    else:
        show_guess(context.console, guess, target, root, link)
    return OK
