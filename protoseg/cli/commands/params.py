"""``protoseg params``: counts model parameters and compares them with the paper."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg import files
from protoseg.cli.arguments import add_operands, add_output_folder
from protoseg.cli.exit_status import OK
from protoseg.config.identity import make_slug
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from protoseg.cli.context import Context
    from protoseg.cli.published_counts import CountRow, PublishedCounts
    from protoseg.training.builders.parameter_counts import ParameterCounts

EXAMPLE = "protoseg params mit_b2"
DIFFERS = "≠"
"""Marks a count that differs from the printed one."""

Cells = Sequence[Sequence[str]]

PUBLISHED = (
    *("Table", "Model", "Backbone", "Classes", "K", "Paper", "Ours"),
    *("Paper, ProtoSeg", "Ours, ProtoSeg", "Paper, brackets", "Classifier", "Auxiliary", "Notes"),
)
MODELS = ("Run", "Learnable", "Classifier", "Auxiliary", "Prototypes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | BACKBONE | OVERRIDE",
        "matrices; or backbones of the paper's models; or overrides that describe one model "
        "(default: all models of the paper)",
    )
    add_output_folder(parser, "no files")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--csv", action="store_true", help="print CSV")


def run(context: Context) -> int:
    """Count the models of the paper, of matrices, or of one run that is given by overrides."""
    from protoseg.cli.arguments import is_override
    from protoseg.config.matrix_bundles import list_matrices_and_bundles

    operands = context.operands
    names = [operand for operand in operands if not is_override(operand)]
    backbones = context.composer.options["backbone"]
    known = [name for group in list_matrices_and_bundles(context.experiments) for name in group]
    matrices = [name for name in names if name in known or name.endswith((".yaml", ".yml"))]
    for name in names:
        if name not in backbones and name not in matrices:
            raise UsageError(
                describe_unknown_name("matrix or backbone", name, "params", [*known, *backbones])
            )
    if matrices and len(matrices) < len(names):
        raise UsageError("params: name matrices or backbones, not both in one call.")
    if names and not matrices and len(operands) > len(names):
        raise UsageError(
            "params: the published counts of a backbone take no overrides. To count one model, "
            f"replace its name: params backbone={names[0]} ..."
        )
    if matrices:
        from protoseg.cli.stages import list_stages

        loaded, _ = context.matrices()
        return _print_models(context, _count_matrices(list_stages(loaded)))
    if operands and not names:
        spec = context.one_run()
        return _print_models(context, [(make_slug(spec), *_count_model(spec))])
    return _print_published(context, set(names))


def _count_model(spec: RunSpec) -> tuple[ParameterCounts, int]:
    """The counts of a model, and its number of classes."""
    from protoseg.training.builders.parameter_counts import count_spec_parameters

    return count_spec_parameters(spec), len(spec.dataset.classes)


def _count_matrices(matrices: Iterable[Matrix]) -> list[tuple[str, ParameterCounts, int]]:
    """Name, counts and number of classes of each row; its seeds have the same model."""
    models: dict[str, tuple[str, ParameterCounts, int]] = {}
    for matrix in matrices:
        for run in matrix.runs:
            values = ", ".join(
                str(value) if axis == "label" else f"{axis}={value}"
                for axis, value in run.axes.items()
            )
            name = f"{matrix.name}: {values}" if values else matrix.name
            if name not in models:
                models[name] = (name, *_count_model(run.spec))
    return list(models.values())


def _print_models(context: Context, models: list[tuple[str, ParameterCounts, int]]) -> int:
    data = [
        {
            "run": name,
            "classes": classes,
            "learnable": counts.learnable,
            "backbone": counts.backbone,
            "decoder": counts.decoder,
            "classifier": counts.classifier,
            "auxiliary": counts.auxiliary,
            "prototype": counts.prototype,
        }
        for name, counts, classes in models
    ]
    cells = [
        (name, *map(_format_millions, (c.learnable, c.classifier, c.auxiliary, c.prototype)))
        for name, c, _ in models
    ]
    footer = [
        "In millions. Learnable: parameters of the trained model, without the auxiliary head. "
        "Prototypes are buffers and not learnable."
    ]
    return _print_table(context, MODELS, cells, footer, data, "models")


def _print_published(context: Context, backbones: set[str]) -> int:
    from protoseg.cli.published_counts import published_counts
    from protoseg.training.builders.parameter_counts import count_spec_parameters

    published = published_counts(
        context.paths.published, context.composer, count_spec_parameters, backbones
    )
    numbers = _number_notes(published)
    cells = [_format_published_row(row, numbers) for row in published.rows]
    footer = [
        f"In millions, including an auxiliary head, as the paper counts. {DIFFERS}: differs from "
        f"the printed digits. Paper: {published.source}.",
        *(f"({number}) {published.notes[key]}" for key, number in numbers.items()),
    ]
    data = [row.to_dict() for row in published.rows]
    return _print_table(context, PUBLISHED, cells, footer, data, "params", notes=published.notes)


def _number_notes(published: PublishedCounts) -> dict[str, int]:
    """Note -> its number, in the order of the rows."""
    keys = dict.fromkeys(key for row in published.rows for key in row.notes)
    return {key: number for number, key in enumerate(keys, 1)}


def _format_published_row(row: CountRow, numbers: dict[str, int]) -> tuple[str, ...]:
    def paper(value: float | None, decimals: int) -> str:
        return "–" if value is None else f"{value:.{decimals}f}"

    def ours(count: int, agrees: bool | None) -> str:
        return _format_millions(count) + (f" {DIFFERS}" if agrees is False else "")

    return (
        ", ".join(row.tables),
        row.method,
        row.backbone,
        str(row.num_classes),
        str(row.num_prototypes),
        paper(row.published, row.decimals),
        ours(row.parametric.trained, row.agrees),
        paper(row.published_protoseg, row.decimals),
        ours(row.protoseg.trained, row.protoseg_agrees),
        paper(row.published_brackets, row.decimals - (row.num_prototypes > 1)),
        ours(row.parametric.classifier, row.brackets_agree),
        _format_millions(row.parametric.auxiliary),
        " ".join(f"({numbers[key]})" for key in row.notes),
    )


def _format_millions(count: int) -> str:
    return f"{count / 1e6:.3f}" if count else "0"


def _print_table(
    context: Context,
    titles: Sequence[str],
    cells: Cells,
    footer: list[str],
    data: list[dict[str, Any]],
    name: str,
    **more: Any,
) -> int:
    """Print a table in the chosen format; with ``--out``, write it in all formats."""
    content = {"rows": data, **more}
    formats = {
        "md": _to_markdown(titles, cells, footer),
        "csv": _to_csv(data),
        "json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
    }
    written = []
    if context.arguments.out:
        folder = files.make_folder(Path(context.arguments.out))
        for ending, text in formats.items():
            path = folder / f"{name}.{ending}"
            files.write_bytes(path, text.encode())
            written.append(str(path))
    if context.json:
        context.print_json({**content, "written": written})
    elif context.arguments.markdown or context.arguments.csv:
        print(formats["csv" if context.arguments.csv else "md"], end="")
    else:
        context.console.print(_render_table(titles, cells))
        for line in footer:
            context.console.print(line, style="dim", markup=False)
        if written:
            context.console.print(f"written: {', '.join(written)}", markup=False)
    return OK


def _render_table(titles: Sequence[str], cells: Cells) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, header_style="dim", justify=_choose_alignment(index, titles))
    for row in cells:
        table.add_row(*(Text(cell, style="yellow" if DIFFERS in cell else "") for cell in row))
    return table


def _choose_alignment(index: int, titles: Sequence[str]) -> Any:
    text_columns = 1 if titles is MODELS else 3
    return "left" if index < text_columns or titles[index] == "Notes" else "right"


def _to_markdown(titles: Sequence[str], cells: Cells, footer: list[str]) -> str:
    rule = [":--" if _choose_alignment(i, titles) == "left" else "--:" for i in range(len(titles))]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in (list(titles), rule, *escaped)]
    return "\n".join([*lines, "", *(f"{line}  " for line in footer)]).rstrip() + "\n"


def _to_csv(data: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(data[0]) if data else [], lineterminator="\n")
    writer.writeheader()
    for row in data:
        joined = {k: "; ".join(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(joined)
    return stream.getvalue()
