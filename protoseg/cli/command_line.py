"""The command ``protoseg``: parses the command line and runs one verb.

The verb ``NAME`` is the module ``protoseg.cli.commands.NAME``. A module of a verb has:

- ``EXAMPLE``: one call, shown by ``--help``;
- ``add_arguments(parser)``: adds the arguments of the verb;
- ``run(context)``: runs the verb and returns the exit status.

Only the module of the verb that is called is imported.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from protoseg import __version__
from protoseg.cli.arguments import add_folder_arguments
from protoseg.cli.interrupts import INTERRUPTS, is_interrupt
from protoseg.errors import ProtosegError

DESCRIPTION = "Benchmarks and ablations of prototype-based semantic segmentation."

VERBS = {
    "project": {
        "init": "make a project: a folder for your matrices, data sets and results",
        "config": "list and show matrices, data sets and other config files; their JSON Schema",
    },
    "run": {
        "plan": "show the runs of a matrix, their states and the remaining cost",
        "sweep": "train the unfinished runs of a matrix, on this machine or on a SLURM cluster",
        "train": "train one run, described by overrides",
        "status": "show the progress of each run, and why it failed or was interrupted",
    },
    "images": {
        "predict": "predict images with a trained model: label maps, pictures, a page",
    },
    "results": {
        "evaluate": "evaluate finished runs, or weights from elsewhere, on another split",
        "samples": "make the samples of finished runs, which pictures are drawn from",
        "tables": "build the table of a matrix from the records of its runs",
        "figures": "draw the figures of a matrix from the records of its runs",
        "report": "write a web page of each matrix: tables, charts, runs, how to reproduce",
        "explain": "show the runs, seeds and commits behind a table cell, or behind one run",
        "compare": "compare the mIoU of two runs or two table rows, with confidence intervals",
        "export": "export the network of a finished run for mmseg, or as ONNX",
        "fill": "write the numbers that Markdown pages mark with their source, from the records",
    },
    "data": {
        "data": "list, describe (init), prepare and check data sets",
        "weights": "list and download pre-trained weights",
        "masks": "export the pseudo-masks of a finished weakly supervised run as a data set",
    },
    "cluster": {
        "cancel": "cancel the jobs of runs; running ones save a checkpoint first",
        "logs": "print the log of a run, or list its attempts",
    },
    "check": {
        "doctor": "check the installation, GPUs, data sets, weights and SLURM",
        "verify": "check that records are intact, and that tables and figures follow from them",
        "reproduce": "train a recorded run again and compare the two results",
        "params": "count model parameters and compare them with the paper",
    },
}
"""Group of verbs -> verb -> its purpose, as ``protoseg --help`` prints them."""

PURPOSES = {verb: purpose for verbs in VERBS.values() for verb, purpose in verbs.items()}

EPILOG = """\
A matrix lists the runs of one table: its rows and seeds. MATRIX is the name of a file in
experiments/matrices, or the path of a YAML file. All verbs except sweep use all matrices if none
is named; in a project (protoseg init) its own. An OVERRIDE changes the runs, in Hydra's syntax:
method.num_prototypes=5 seed=0,1,2

A record is the result file of a finished run. An attempt is one start of a run: an interrupted run
resumes in a new attempt. RUN is a run id, or any part of it that no other run id has.

examples:
  protoseg plan quickstart                 show what a sweep would train, and its cost
  protoseg sweep quickstart --jobs 2       train on this machine; run again to resume
  protoseg sweep quickstart cluster=NAME   submit to SLURM; NAME is a file in slurm/
  protoseg status quickstart --watch       show the progress until all runs have ended
  protoseg tables quickstart               build the table: Markdown, LaTeX, CSV and HTML
  protoseg explain quickstart "ProtoSeg, K = 4" miou

exit status: 0 success, 1 failure, 2 wrong usage
"""


class ShowVersion(argparse.Action):
    """Prints the versions of what determines a result."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import torch

        from protoseg.paths import find_package_folder
        from protoseg.training.machine.device import get_device_name
        from protoseg.training.provenance.source_code import read_code_state

        code = read_code_state(find_package_folder())
        commit = f"commit {code.commit[:10]}" if code.commit else "commit unknown"
        changed = ", changed" if code.dirty else ""
        print(
            f"protoseg {__version__} ({commit}{changed}), torch {torch.__version__}, "
            f"device {get_device_name()}"
        )
        parser.exit()


def make_parser(verbs: Iterable[str] = PURPOSES) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        verbs: verbs whose arguments are added. Only their modules are imported.
    """
    top = argparse.ArgumentParser(
        prog="protoseg",
        usage="protoseg [-h] [--version] VERB ...",
        description=DESCRIPTION,
        epilog=f"{_verb_list()}\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--version", action=ShowVersion, nargs=0, help="show version, commit, torch and device"
    )
    parsers = top.add_subparsers(
        dest="verb", prog="protoseg", metavar="VERB", required=True, help=argparse.SUPPRESS
    )
    verbs = set(verbs)
    for verb, purpose in PURPOSES.items():
        parser = parsers.add_parser(
            verb,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb in verbs:
            module = import_verb(verb)
            parser.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_arguments(parser)
            add_folder_arguments(parser)
    return top


def import_verb(verb: str) -> Any:
    """The module of a verb."""
    return importlib.import_module(f"protoseg.cli.commands.{verb}")


CONTINUED = ("sweep", "train", "predict")
"""The verbs that an interruption leaves incomplete; a second call continues."""


def _verb_list() -> str:
    lines = []
    for group, verbs in VERBS.items():
        lines.append(f"{group}:")
        lines += [f"  {verb:<11}{purpose}" for verb, purpose in verbs.items()]
    return "\n".join([*lines, "", "protoseg VERB --help shows the arguments of a verb.", ""])


def offer_completions() -> None:
    """Answer a shell that completes a command line (`docs/installation.md`), and exit."""
    import argcomplete

    verbs = [word for word in os.environ.get("COMP_LINE", "").split()[1:2] if word in PURPOSES]
    argcomplete.autocomplete(make_parser(verbs))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; operands and options may be mixed."""
    if "_ARGCOMPLETE" in os.environ:
        offer_completions()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        make_parser([]).print_help(sys.stderr)
        raise SystemExit(2)
    top = make_parser([argument for argument in arguments[:1] if argument in PURPOSES])
    parsed, rest = top.parse_known_args(arguments)
    # argparse takes operands before or after the options of a verb; the others are in `rest`.
    takes_any_number = getattr(parsed, "any_operands", False)
    if rest and (not takes_any_number or any(argument.startswith("-") for argument in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.operands = [*parsed.operands, *rest]
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    INTERRUPTS.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot display 'Δ' or '×' displays '?' instead.
            stream.reconfigure(errors="replace")
    parsed = parse_arguments(arguments)
    verb = parsed.verb
    try:
        from protoseg.cli.context import Context

        status: int = import_verb(verb).run(Context(parsed))
        sys.stdout.flush()
        return status
    except ProtosegError as error:
        print(_error_text(verb, str(error)), file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        advice = " To continue, run the same command again." if verb in CONTINUED else ""
        print(f"protoseg {verb}: interrupted.{advice}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader closed the pipe, e.g. `protoseg status | head`. Only a training is incomplete.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if verb in CONTINUED else 0


def _error_text(verb: str, message: str) -> str:
    """A message that starts with the verb; some do already: ``data check: name a data set.``."""
    is_named = message.startswith((f"{verb}: ", f"{verb} "))
    return f"protoseg {message}" if is_named else f"protoseg {verb}: {message}"
