"""``masks``: write the pseudo-masks of a finished run of the task ``weak`` as a data set."""

from __future__ import annotations

from pathlib import Path

from protoseg.cli.context import OK, Context, part_of_one
from protoseg.cli.progress import Bar
from protoseg.errors import UsageError, unknown
from protoseg.runs.folder import RunFolder


def masks(context: Context) -> int:
    """Run ``masks RUN --into NAME``."""
    from protoseg.training.evaluation.export_masks import OPTION, write_masks

    name = context.arguments.into
    if not name:
        raise UsageError("masks: name the data set to make: --into NAME, e.g. --into ccp_masks.")
    if Path(name).name != name or name.startswith("."):
        raise UsageError(
            f"masks: --into: expected the name of a folder below {context.places.data}, "
            f"found '{name}'."
        )
    folder = RunFolder(_find(context, context.arguments.words[0]))
    target = context.places.data / name
    with Bar(context, f"masks of {folder.run_id}") as progress:
        made = write_masks(folder, context.places.data, target, progress.update)
    if context.json:
        context.print_json(made)
        return OK
    context.console.print(
        f"{made['images']} masks in {target}: mIoU {made['miou']:.2f} % at the background "
        f"threshold {made['threshold']}, chosen on these very images",
        style="green",
        markup=False,
    )
    context.console.print(f"digest {made['digest']}")
    context.console.print(
        f"To train on them, copy {target / OPTION} to experiments/dataset/{name}.yaml; then "
        f"dataset={name}.",
        markup=False,
    )
    return OK


def _find(context: Context, word: str) -> Path:
    """The folder of the one run that a word means: its id, or a part that no other has."""
    runs = context.places.runs
    known = sorted(path.parent.name for path in runs.glob("*/record.json"))
    found = word if word in known else part_of_one(word, known)
    if found is None:
        raise UsageError(unknown("run", word, f"finished runs in {runs}", known[:20]))
    return runs / found
