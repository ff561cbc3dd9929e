"""``protoseg export``: exports the network of a finished run for mmseg, or as ONNX."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_run_operand
from protoseg.cli.exit_status import OK
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from protoseg.cli.context import Context

ANY_SIZE = "any"
EXAMPLE = "protoseg export 3f2a --into camvid_k10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_run_operand(parser)
    parser.add_argument("--into", metavar="DIR", help="folder to create (required)")
    parser.add_argument(
        "--onnx",
        nargs="?",
        const=ANY_SIZE,
        metavar="HEIGHTxWIDTH",
        help="also write model.onnx, for images of this size or, without one, of any size "
        "(parametric and prototype heads)",
    )


def run(context: Context) -> int:
    """Export the network of a finished run."""
    name = context.arguments.into
    if not name:
        raise UsageError("export: no folder is named. Add --into DIR, e.g. --into camvid_k10.")
    target = Path(name).expanduser().absolute()
    size = _parse_size(context.arguments.onnx)
    folder = _find_run_folder(context, context.arguments.operands[0])
    from protoseg.inference.export import CONFIG, ONNX, WEIGHTS, export_run

    origin = export_run(folder, target, bool(context.arguments.onnx), size)
    if context.json:
        context.print_json({"folder": str(target), **origin})
        return OK
    context.console.print(
        f"{origin['run_id']} in {name}: {', '.join(origin['files'])}", style="green", markup=False
    )
    context.console.print(
        f"mmseg: init_model('{name}/{CONFIG}', '{name}/{WEIGHTS}', device='cpu')", markup=False
    )
    if context.arguments.onnx:
        onnx = origin["onnx"]
        context.console.print(
            f"onnxruntime: InferenceSession('{name}/{ONNX}'), {onnx['differing']} of "
            f"{onnx['pixels']} pixels with another class than torch's",
            markup=False,
        )
    needed = ", ".join(origin["imports"])
    if needed:
        context.console.print(f"The config imports {needed}.", markup=False)
    return OK


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """The height and width of ``--onnx``; None for any size.

    Raises:
        UsageError: not two numbers.
    """
    if text is None or text == ANY_SIZE:
        return None
    match = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", text)
    if match is None:
        raise UsageError(
            f"export: --onnx: expected HEIGHTxWIDTH in pixels, found '{text}'. Write e.g. "
            "--onnx 512x512, or put the run before --onnx."
        )
    return int(match[1]), int(match[2])


def _find_run_folder(context: Context, name: str) -> RunFolder:
    """The folder of a finished run.

    Raises:
        UsageError: no run, or several, have this name.
        ProtosegError: there is a record of the run, but no folder with its checkpoint.
    """
    from protoseg.cli.run_lookup import find_run, finished_runs, recorded_runs

    runs = context.paths.runs
    finished = finished_runs(context)
    if not any(name in run_id for run_id in finished):
        recorded = [run_id for run_id in recorded_runs(context) if name in run_id]
        if len(recorded) == 1:
            raise ProtosegError(
                f"{recorded[0]}: has a record, but no run folder with a checkpoint in {runs}. Name "
                "the folder of its run with --runs, or train it again (protoseg reproduce)."
            )
    return RunFolder(runs / find_run(name, finished, f"finished in {runs}"))
