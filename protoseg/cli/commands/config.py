"""``protoseg config``: lists and shows config files, and prints their JSON Schema."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import OK
from protoseg.cli.outputs import display_path
from protoseg.config.fields import to_plain
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.hydra.origins import find_origins
from protoseg.config.overrides import Setting
from protoseg.errors import UsageError, describe_unknown_name, join_names

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg config show dataset/camvid --origin"
MATRICES, CLUSTERS, RUN = "matrices", "clusters", "run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "list [GROUP] | show NAME | schema NAME",
        "list (default): names of all config files, or of a group; show: one of them, e.g. run, "
        "dataset/camvid, matrices/quickstart, clusters/one_h200; schema: the JSON Schema of a "
        "group, or of matrix, for editors",
    )
    parser.add_argument("--origin", action="store_true", help="show the file that sets each value")


def run(context: Context) -> int:
    """Run ``config list``, ``config show NAME`` or ``config schema NAME``."""
    action, *names = context.arguments.operands or ["list"]
    actions = {"list": _list_files, "show": _show_file, "schema": _print_schema}
    if action not in actions:
        raise UsageError(describe_unknown_name("action", action, "config", actions))
    if len(names) > 1 or (not names and action != "list"):
        raise UsageError(f"config {action}: expected one name, found {len(names)}.")
    return actions[action](context, names)


def _get_groups(context: Context) -> dict[str, dict[str, Path]]:
    """Return group -> name -> file, of all config files."""
    folders = context.experiments
    groups = {group: folders.list_files(group) for group in (MATRICES, *config_groups())}
    return {**groups, CLUSTERS: context.clusters.list_files()}


def _list_files(context: Context, names: list[str]) -> int:
    from rich.table import Table
    from rich.text import Text

    groups = _get_groups(context)
    for name in names:
        if name not in groups:
            raise UsageError(describe_unknown_name("group", name, "config list", groups))
    shown = {group: groups[group] for group in names or groups}
    replaced = dict([*context.experiments.list_replaced(), *context.clusters.list_replaced()])
    # Without a folder of packaged files behind it, no file differs from them.
    own = [context.paths.experiments] if context.paths.other_experiments else []
    own += [context.paths.clusters] if context.paths.other_clusters else []
    if context.json:
        content = {
            group: [
                {"name": name, "file": str(path), "replaces": _text(replaced.get(path))}
                for name, path in files.items()
            ]
            for group, files in shown.items()
        }
        context.print_json(content)
        return OK
    table = Table(box=None, pad_edge=False)
    table.add_column("Group")
    table.add_column("Names")
    for group, files in shown.items():
        text = Text()
        for name, path in files.items():
            is_own = any(path.is_relative_to(folder.resolve()) for folder in own)
            mark = " (replaced)" if path in replaced else " (project)" if is_own else ""
            text.append(", " if text else "")
            text.append(name + mark, style="bold" if mark else "")
        table.add_row(group, text)
    context.console.print(table)
    return OK


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _find_name(context: Context, name: str) -> tuple[str, str, Path]:
    """Return group, name and file of a config file; the group may be omitted if it is clear."""
    if name == RUN:
        return "", RUN, context.experiments.find("run.yaml")
    groups = _get_groups(context)
    group, _, option = name.rpartition("/")
    if group and group not in groups:
        raise UsageError(describe_unknown_name("group", group, "config show", [*groups, RUN]))
    matching = [g for g in ([group] if group else groups) if option in groups[g]]
    if len(matching) > 1:
        choices = join_names([f"{each}/{option}" for each in matching])
        raise UsageError(f"config show: {name}: several files have this name. Name one: {choices}.")
    if not matching:
        known = [f"{g}/{n}" for g in ([group] if group else groups) for n in groups[g]]
        candidates = known if group else [*dict.fromkeys(n for f in groups.values() for n in f)]
        raise UsageError(describe_unknown_name("config file", name, "config show", candidates))
    return matching[0], option, groups[matching[0]][option]


def _show_file(context: Context, names: list[str]) -> int:
    group, name, path = _find_name(context, names[0])
    if group in (MATRICES, CLUSTERS):
        if context.json:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            context.print_json({"file": str(path), "values": content})
        else:
            text = path.read_text(encoding="utf-8").rstrip()
            context.console.print(f"# {display_path(path)}\n{text}", markup=False)
        return OK
    settings = [Setting(group, name)] if group else []
    spec = context.composer.spec(settings, f"config show {names[0]}")
    values: dict[str, Any] = to_plain(getattr(spec, group) if group else spec)
    origins = find_origins(context.experiments, group, name)
    if not group:
        chosen = _read_chosen_options(path)
        values = {key: chosen.get(key, value) for key, value in values.items()}
        origins |= dict.fromkeys(chosen, path)
    if context.json:
        shown = {key: _text(origins.get(key)) for key in values}
        context.print_json({"file": str(path), "values": values, "origins": shown})
        return OK
    context.console.print(f"# {display_path(path)}", markup=False)
    for key, value in values.items():
        text = _format(key, value)
        first, *rest = text.rstrip().split("\n")
        if context.arguments.origin:
            origin = origins.get(key)
            first += f"   # {display_path(origin) if origin else 'default'}"
        context.console.print("\n".join([first, *rest]), markup=False)
    return OK


def _format(key: str, value: Any) -> str:
    """Format one value as YAML; a list of plain values takes one line."""
    flow = None if isinstance(value, dict | list) else False
    text: str = yaml.safe_dump(
        {key: value}, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=flow
    )
    return text


def _read_chosen_options(path: Path) -> dict[str, str]:
    """Read the default option of each group from ``run.yaml``."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    entries = [entry for entry in content.get("defaults") or () if isinstance(entry, dict)]
    return {str(group): str(option) for entry in entries for group, option in entry.items()}


def _print_schema(context: Context, names: list[str]) -> int:
    from protoseg.config.texts.json_schema import make_group_schema, make_matrix_schema

    known = ["matrix", *config_groups()]
    if names[0] not in known:
        raise UsageError(describe_unknown_name("schema", names[0], "config schema", known))
    is_matrix = names[0] == "matrix"
    context.print_json(
        make_matrix_schema(context.composer.options) if is_matrix else make_group_schema(names[0])
    )
    return OK
