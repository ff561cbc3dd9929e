"""Arguments that several verbs have, and the types of their values."""

from __future__ import annotations

import argparse
import math
from typing import Any

from protoseg.errors import UsageError

FOLDERS = (
    ("runs", "run folders", "runs"),
    ("data", "data sets", "data"),
    ("weights", "pre-trained weights", "DATA/weights"),
    ("results", "records, tables and figures", "results"),
    ("experiments", "matrices and config groups", "experiments"),
    ("clusters", "cluster profiles", "slurm"),
)
"""Option, its content, and its default: a folder of the checkout."""

CLUSTER = "cluster"
"""Key of the cluster profile."""

TRIAL_FIGURES = ("trials", "tuning_curves")
"""Types of figures that need the records of trials only."""


def count(text: str, minimum: int = 0) -> int:
    """A whole number of at least ``minimum``."""
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"expected a whole number from {minimum}, found '{text}'")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return count(text, minimum=1)


def iterations(text: str) -> int:
    """The number of iterations after ``--time``, at least 1.

    The number is optional, so argparse mistakes an operand after ``--time`` for it.
    """
    if text.isdecimal():
        return positive(text)
    raise argparse.ArgumentTypeError(
        f"expected a whole number from 1, found '{text}'; put matrices before --time"
    )


def seconds(text: str) -> float:
    """A finite number of seconds, at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0, found '{text}'")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """Different positive numbers, separated by commas; sorted."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if (
        not values
        or not all(0 < value <= 100 for value in values)
        or len(set(values)) < len(values)
    ):
        raise argparse.ArgumentTypeError(
            f"expected different scales such as 0.75,1,1.25, found '{text}'"
        )
    return tuple(sorted(values))


def add_operands(parser: argparse.ArgumentParser, metavar: str, purpose: str) -> None:
    """Let a verb take any number of operands, before and after its options."""
    operands = parser.add_argument("operands", nargs="*", metavar=metavar, help=purpose)
    operands.completer = complete_operand  # type: ignore[attr-defined]  # argcomplete reads it
    parser.set_defaults(any_operands=True)


def complete_operand(prefix: str, **_: Any) -> list[str]:
    """The operands that a shell offers: matrices, options of groups and cluster profiles."""
    from protoseg.config.hydra.folders import ConfigFolders
    from protoseg.paths import find_paths

    paths = find_paths()
    experiments = ConfigFolders(paths.experiments, paths.other_experiments)
    group, equals, _name = prefix.partition("=")
    if equals and group == CLUSTER:
        names = ConfigFolders(paths.clusters, paths.other_clusters).list_files()
    else:
        names = experiments.list_files(group if equals else "matrices")
    return [f"{group}={name}" for name in names] if equals else list(names)


def add_run_operand(parser: argparse.ArgumentParser) -> None:
    """Let a verb take one run."""
    parser.add_argument(
        "operands", nargs=1, metavar="RUN", help="run id, or a part of it that no other run id has"
    )


def add_matrix_operands(parser: argparse.ArgumentParser) -> None:
    """Let a verb take matrices and overrides."""
    add_operands(parser, "MATRIX | OVERRIDE", "matrices, and changes of their values: seed=0,1")


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """The option to ignore committed records."""
    parser.add_argument(
        "--ignore-records",
        action="store_true",
        help="use the records in run folders only, not the committed ones in RESULTS/records",
    )


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """The option of the number of parallel runs on this machine."""
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="parallel runs on this machine (default: one per GPU, or one per two cores)",
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options of the verbs that train."""
    group = parser.add_argument_group("training (these options do not change the run id)")
    group.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads per run (default: the cores divided by the number of parallel runs)",
    )
    group.add_argument(
        "--workers",
        type=count,
        default=0,
        metavar="N",
        help="data loader processes per run (default: 0)",
    )
    group.add_argument(
        "--checkpoint-seconds",
        type=seconds,
        default=60.0,
        metavar="S",
        help="seconds between checkpoints (default: 60)",
    )
    group.add_argument(
        "--logger",
        action="append",
        metavar="NAME",
        help="log the training: jsonl, tensorboard, wandb, mlflow or one of your classes; may be "
        "repeated (default: those in $PROTOSEG_LOGGERS)",
    )
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="also retry runs that failed for a permanent reason",
    )
    group.add_argument(
        "--accept-code",
        action="store_true",
        help="keep the runs that were trained with other code of your own classes, and go on",
    )


def add_augmentation_options(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Options of test-time augmentation."""
    group.add_argument(
        "--tta",
        action="store_true",
        help="average the probabilities over scales and flip (see --scales)",
    )
    group.add_argument(
        "--scales",
        type=numbers,
        metavar="S,S",
        help="scales of --tta (default: 0.5,0.75,1,1.25,1.5,1.75)",
    )


def choose_scales(arguments: argparse.Namespace) -> tuple[float, ...]:
    """The scales of test-time augmentation; empty without ``--tta``.

    Raises:
        UsageError: ``--scales`` without ``--tta``.
    """
    from protoseg.inference.settings import TTA_SCALES

    if arguments.scales and not arguments.tta:
        raise UsageError(
            f"{arguments.verb}: --scales is used with --tta only. Add --tta, or remove it."
        )
    return (arguments.scales or TTA_SCALES) if arguments.tta else ()


def add_output_folder(parser: argparse.ArgumentParser, default: str) -> None:
    """The option for the folder of output files.

    Args:
        default: what the help shows as the default.
    """
    parser.add_argument("--out", metavar="DIR", help=f"folder of output files (default: {default})")


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of all verbs: JSON output and folders."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    group = parser.add_argument_group("folders (these options do not change the run id)")
    for option, content, default in FOLDERS:
        variable = f"PROTOSEG_{option.upper()}"
        purpose = f"{content} (default: ${variable}, or {default})"
        group.add_argument(f"--{option}", metavar="DIR", help=purpose)


def is_cluster_setting(operand: str) -> bool:
    """Whether an operand names a cluster profile or changes one."""
    key, equals, _ = operand.lstrip("+~").partition("=")
    return key.startswith(f"{CLUSTER}.") or (key == CLUSTER and bool(equals))


def is_override(operand: str) -> bool:
    """Whether an operand is an override rather than a name."""
    return "=" in operand or operand.startswith("~")


def split_overrides(operands: list[str]) -> tuple[list[str], list[str]]:
    """The overrides and the names among operands."""
    overrides = [operand for operand in operands if is_override(operand)]
    return overrides, [operand for operand in operands if not is_override(operand)]
