"""The command ``protoseg``. Verbs import what they need when they are called, and no sooner."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from protoseg import __version__
from protoseg.cli.arguments import count, iterations, positive, seconds
from protoseg.errors import ProtosegError

DESCRIPTION = "Benchmarks and ablations of prototype-based semantic segmentation."
EPILOG = """\
MATRIX is a name in experiments/matrices (or a YAML file); without one, all of them are meant,
but for sweep, which wants a name.
Overrides are Hydra's: dataset=camvid method.num_prototypes=5 seed=0,1,2

  protoseg plan quickstart                 what would be trained, and what it costs
  protoseg sweep quickstart --jobs 2       train it here; run again, it does what is left
  protoseg sweep quickstart cluster=NAME   submit it to SLURM; NAME is a file in slurm/
  protoseg status quickstart --watch       how far it is
  protoseg tables quickstart               the table, as Markdown, LaTeX, CSV and HTML
  protoseg explain quickstart "ProtoSeg, K = 4" miou

exit status: 0 fine, 1 something failed, 2 wrong usage
"""

VERBS = {
    "plan": ("sweeps", "show the runs of matrices, their states, and the price of what is left"),
    "sweep": ("sweeps", "train what matrices still need, here or on a cluster (cluster=NAME)"),
    "train": ("sweeps", "train one run given by overrides"),
    "status": ("sweeps", "show how far each run is, and why attempts ended"),
    "cancel": ("jobs", "cancel jobs, of matrices or of single runs; those under way save and end"),
    "logs": ("jobs", "print what an attempt at a run wrote, or list its attempts"),
    "tables": ("reports", "rebuild tables from records alone"),
    "figures": ("figures", "draw tables, loss curves and classes from records alone"),
    "explain": ("reports", "name the runs, commits and seeds behind a cell"),
    "compare": ("reports", "set two runs, or two rows of a matrix, against each other"),
    "reproduce": ("reproduce", "train a recorded run again, and say whether it comes to the same"),
    "verify": ("verify", "check every record, and every committed table against the records"),
    "params": ("params", "count what models learn, beside what the paper prints"),
    "weights": ("weights", "list pre-trained weights; fetch them: weights get BACKBONE"),
    "masks": ("masks", "write the masks of a weakly supervised run as a data set"),
    "data": ("data", "list, prepare and check data sets"),
    "doctor": ("doctor", "say what this machine, or the cluster around it, has and lacks"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="protoseg",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"protoseg {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (_, text) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _common(verb)
        _words(verb, name)
        if name in (
            *("plan", "sweep", "status", "tables", "figures", "explain", "compare", "train"),
            "reproduce",
        ):
            meaning = "do not count what results/records holds as done"
            verb.add_argument("--ignore-records", action="store_true", help=meaning)
        if name in ("plan", "sweep"):
            verb.add_argument(
                "--jobs", type=positive, metavar="N", help="runs at once on this machine"
            )
        if name in ("sweep", "train"):
            _training(verb)
        if name == "train":
            verb.set_defaults(jobs=1)
        if name == "plan":
            verb.add_argument(
                "--sbatch", action="store_true", help="with cluster=NAME: print the batch scripts"
            )
            verb.add_argument(
                "--time",
                type=iterations,
                nargs="?",
                const=10,
                metavar="N",
                help="time N iterations (10) of each kind of run that no record is like, here",
            )
        if name == "logs":
            verb.add_argument("--attempt", type=positive, metavar="N", help="not the last one")
            verb.add_argument("--batch", action="store_true", help="what its batch script printed")
            verb.add_argument("--follow", action="store_true", help="go on while it is under way")
            verb.add_argument("--list", action="store_true", help="list the attempts")
        if name == "doctor":
            verb.add_argument(
                "--probe",
                metavar="PARTITION",
                nargs="?",
                const="",
                help="run a tiny job that looks at the shared folders from a node",
            )
        if name == "status":
            verb.add_argument("--watch", action="store_true", help="refresh until all have ended")
        if name == "compare":
            _comparing(verb)
        if name == "reproduce":
            _reproducing(verb)
        if name == "masks":
            verb.add_argument("--into", metavar="NAME", help="folder to make below the data folder")
        if name in ("params", "figures", "tables"):
            verb.add_argument("--out", metavar="DIR", help="folder for the files")
        if name == "params":
            verb.add_argument("--markdown", action="store_true", help="print Markdown")
            verb.add_argument("--csv", action="store_true", help="print CSV")
        if name == "figures":
            verb.add_argument(
                "--kind",
                action="append",
                choices=("metric", "loss", "classes"),
                help="what is drawn (metric); may be given several times",
            )
        if name == "tables":
            verb.add_argument("--markdown", action="store_true", help="print Markdown")
            verb.add_argument(
                "--keep-records",
                action="store_true",
                help="copy the records behind the tables to results/records",
            )
    return top


FEW_WORDS = ("explain", "logs", "reproduce", "masks", "doctor")
"""Verbs with a set number of words; the others take any."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a call; words may stand before options and behind them."""
    top = parser()
    given, rest = top.parse_known_args(arguments)
    # argparse takes the words of a sub-command from one place alone, and leaves later ones over.
    if rest and (given.verb in FEW_WORDS or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    given.words = [*given.words, *rest]
    return given


def _common(verb: argparse.ArgumentParser) -> None:
    places = verb.add_argument_group("places (not part of a run's identity)")
    places.add_argument("--runs", metavar="DIR", help="run folders (PROTOSEG_RUNS; ./runs)")
    places.add_argument("--data", metavar="DIR", help="data sets (PROTOSEG_DATA; ./data)")
    places.add_argument(
        "--weights", metavar="DIR", help="pre-trained weights (PROTOSEG_WEIGHTS; DATA/weights)"
    )
    places.add_argument("--results", metavar="DIR", help="results (PROTOSEG_RESULTS; ./results)")
    places.add_argument("--experiments", metavar="DIR", help="matrices and config groups")
    places.add_argument(
        "--clusters", metavar="DIR", help="cluster profiles (PROTOSEG_CLUSTERS; ./slurm)"
    )
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


def _words(verb: argparse.ArgumentParser, name: str) -> None:
    if name == "explain":
        verb.add_argument("words", nargs=1, metavar="TABLE", help="a matrix")
        verb.add_argument("row", metavar="ROW", help="a row's label, or its number from 1")
        verb.add_argument(
            "column", metavar="COLUMN", nargs="?", default="#1", help="a column, e.g. miou or delta"
        )
    elif name == "compare":
        verb.add_argument(
            "words", nargs="+", metavar="RUN RUN | MATRIX ROW ROW [COLUMN]", help="both sides"
        )
    elif name == "data":
        meaning = "list | prepare NAME --from DIR | check NAME"
        verb.add_argument("words", nargs="*", metavar=meaning, help="what to do")
        verb.add_argument("--from", dest="source", metavar="DIR", help="prepare: as published")
        verb.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (1)")
    elif name in ("logs", "reproduce", "masks"):
        verb.add_argument("words", nargs=1, metavar="RUN", help="a run's id, or a part of it")
    elif name == "cancel":
        verb.add_argument("words", nargs="+", metavar="MATRIX | RUN", help="what is meant")
    elif name == "train":
        verb.add_argument("words", nargs="*", metavar="OVERRIDE", help="e.g. dataset=shapes")
    elif name == "doctor":
        verb.set_defaults(words=[])
    elif name == "params":
        meaning = "MATRIX | BACKBONE | OVERRIDE"
        verb.add_argument("words", nargs="*", metavar=meaning, help="without: the paper's counts")
    elif name == "weights":
        verb.add_argument("words", nargs="*", metavar="list | get BACKBONE", help="what to do")
    elif name == "verify":
        verb.add_argument("words", nargs="*", metavar="MATRIX", help="these alone, not everything")
    else:
        verb.add_argument("words", nargs="*", metavar="MATRIX | OVERRIDE", help="what is meant")


def _comparing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--draws", type=positive, default=10_000, metavar="N", help="bootstrap draws (10000)"
    )
    verb.add_argument(
        "--generator-seed", type=count, default=0, metavar="N", help="seed of the draws (0)"
    )


def _reproducing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkout", action="store_true", help="with the code of the recorded commit, not this one"
    )
    verb.add_argument(
        "--threads", type=positive, metavar="N", help="threads; without it as many as recorded"
    )
    verb.add_argument(
        "--into", metavar="DIR", help="where its run folders go (RUNS/.reproductions)"
    )
    verb.add_argument(
        "--within",
        type=seconds,
        default=0.1,
        metavar="POINTS",
        help="how far apart the metrics may be and still count as equal (0.1)",
    )


def _training(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of each run; without it the cores are shared out",
    )
    verb.add_argument(
        "--workers", type=count, default=0, metavar="N", help="loader processes of each run (0)"
    )
    verb.add_argument(
        "--checkpoint-seconds",
        type=seconds,
        default=60.0,
        metavar="S",
        help="time between checkpoints (60)",
    )
    verb.add_argument(
        "--retry-failed",
        action="store_true",
        help="also runs that failed for a reason that does not pass by itself",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without 'Δ' or '×' shows a '?'
            stream.reconfigure(errors="replace")
    given = parse(arguments)
    try:
        from protoseg.cli.context import Context

        module = importlib.import_module(f"protoseg.cli.commands.{VERBS[given.verb][0]}")
        status: int = getattr(module, given.verb)(Context(given))
        sys.stdout.flush()
        return status
    except ProtosegError as error:
        print(f"protoseg {given.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"protoseg {given.verb}: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # `protoseg status | head`: the reader has what it wanted. A sweep was cut short by it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if given.verb in ("sweep", "train") else 0
