"""``params``: how many numbers models learn, beside what the paper prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from protoseg import files
from protoseg.cli.context import OK, Context
from protoseg.cli.published_counts import CountRow, PublishedCounts, published_counts
from protoseg.config.identity import slug
from protoseg.config.matrix import Matrix
from protoseg.config.matrix_bundles import sorted_names
from protoseg.errors import UsageError, unknown

if TYPE_CHECKING:
    from protoseg.training.build.parameter_counts import Counts

DIFFERS = "≠"
"""Behind a count of ours that is not the printed one."""

Cells = Sequence[Sequence[str]]

PUBLISHED = (
    *("Table", "Model", "Backbone", "Classes", "K", "Paper", "Ours"),
    *("Paper, ProtoSeg", "Ours, ProtoSeg", "Paper, brackets", "Classifier", "Auxiliary", "Notes"),
)
MODELS = ("Run", "Learnable", "Classifier", "Auxiliary", "Prototypes")


def params(context: Context) -> int:
    """Count the models of the paper, of matrices, or of one run given by overrides."""
    words = context.words
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    backbones = context.composer.options["backbone"]
    matrices = [name for kind in sorted_names(context.places.experiments) for name in kind]
    strangers = [n for n in names if n not in backbones and n not in matrices and not _file(n)]
    if strangers:
        known = [*matrices, *backbones]
        raise UsageError(unknown("matrix or backbone", strangers[0], "params", known))
    of_matrices = [name for name in names if name in matrices or _file(name)]
    if of_matrices and len(of_matrices) < len(names):
        raise UsageError("params: name matrices or backbones, not both in one call.")
    if names and not of_matrices and len(words) > len(names):
        raise UsageError(
            "params: a backbone's published counts take no overrides; leave its name out "
            f"(params backbone={names[0]} ...) to count one model."
        )
    if of_matrices:
        found, _ = context.matrices()
        return _show_models(context, _of_matrices(found))
    if words and not names:
        spec = context.one_run()
        return _show_models(context, [(slug(spec), *_counted(spec))])
    return _show_published(context, set(names))


def _file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _counted(spec: Any) -> tuple[Counts, int]:
    from protoseg.training.build.parameter_counts import count

    return count(spec), len(spec.dataset.classes)


def _of_matrices(matrices: Iterable[Matrix]) -> list[tuple[str, Counts, int]]:
    """One entry for all seeds of a row."""
    found: dict[str, tuple[str, Counts, int]] = {}
    for matrix in matrices:
        for run in matrix.runs:
            values = ", ".join(
                str(value) if axis == "label" else f"{axis}={value}"
                for axis, value in run.axes.items()
            )
            name = f"{matrix.name}: {values}" if values else matrix.name
            if name not in found:
                found[name] = (name, *_counted(run.spec))
    return list(found.values())


def _show_models(context: Context, models: list[tuple[str, Counts, int]]) -> int:
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
        (name, *map(_millions, (c.learnable, c.classifier, c.auxiliary, c.prototype)))
        for name, c, _ in models
    ]
    footer = [
        "In millions. Learnable: what is left after training, without the auxiliary head. "
        "Prototypes are buffers, not learnable."
    ]
    return _show(context, MODELS, cells, footer, data, "models")


def _show_published(context: Context, backbones: set[str]) -> int:
    from protoseg.training.build.parameter_counts import count

    folder = context.places.results / "published"
    found = published_counts(folder, context.composer, count, backbones)
    numbers = _numbers(found)
    cells = [_published_cells(row, numbers) for row in found.rows]
    footer = [
        f"In millions, with the auxiliary head where there is one, as the paper counts. {DIFFERS}: "
        f"not the printed digit. Paper: {found.source}.",
        *(f"({number}) {found.notes[key]}" for key, number in numbers.items()),
    ]
    data = [row.to_dict() for row in found.rows]
    return _show(context, PUBLISHED, cells, footer, data, "params", notes=found.notes)


def _numbers(found: PublishedCounts) -> dict[str, int]:
    """Note -> its number, in the order in which the rows name them."""
    keys = dict.fromkeys(key for row in found.rows for key in row.notes)
    return {key: number for number, key in enumerate(keys, 1)}


def _published_cells(row: CountRow, numbers: dict[str, int]) -> tuple[str, ...]:
    def paper(value: float | None, decimals: int) -> str:
        return "–" if value is None else f"{value:.{decimals}f}"

    def ours(count: int, agrees: bool | None) -> str:
        return _millions(count) + (f" {DIFFERS}" if agrees is False else "")

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
        _millions(row.parametric.auxiliary),
        " ".join(f"({numbers[key]})" for key in row.notes),
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}" if count else "0"


def _show(
    context: Context,
    titles: Sequence[str],
    cells: Cells,
    footer: list[str],
    data: list[dict[str, Any]],
    name: str,
    **more: Any,
) -> int:
    """Print one table in the form that was asked for, and write all forms where ``--out`` is."""
    whole = {"rows": data, **more}
    forms = {
        "md": _markdown(titles, cells, footer),
        "csv": _csv(data),
        "json": json.dumps(whole, indent=1, ensure_ascii=False) + "\n",
    }
    written = []
    if context.arguments.out:
        folder = files.make_folder(Path(context.arguments.out))
        for ending, text in forms.items():
            path = folder / f"{name}.{ending}"
            files.write_bytes(path, text.encode())
            written.append(str(path))
    if context.json:
        context.print_json({**whole, "written": written})
    elif context.arguments.markdown or context.arguments.csv:
        print(forms["csv" if context.arguments.csv else "md"], end="")
    else:
        context.console.print(_terminal(titles, cells))
        for line in footer:
            context.console.print(line, style="dim", markup=False)
        if written:
            context.console.print(f"written: {', '.join(written)}", markup=False)
    return OK


def _terminal(titles: Sequence[str], cells: Cells) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, header_style="dim", justify=_side(index, titles))
    for row in cells:
        table.add_row(*(Text(cell, style="yellow" if DIFFERS in cell else "") for cell in row))
    return table


def _side(index: int, titles: Sequence[str]) -> Any:
    words = 1 if titles is MODELS else 3
    return "left" if index < words or titles[index] == "Notes" else "right"


def _markdown(titles: Sequence[str], cells: Cells, footer: list[str]) -> str:
    rule = [":--" if _side(i, titles) == "left" else "--:" for i in range(len(titles))]
    safe = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in (list(titles), rule, *safe)]
    return "\n".join([*lines, "", *(f"{line}  " for line in footer)]).rstrip() + "\n"


def _csv(data: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(data[0]) if data else [], lineterminator="\n")
    writer.writeheader()
    for row in data:
        joined = {k: "; ".join(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(joined)
    return stream.getvalue()
