"""What every verb starts from: the folders, the composer, the matrices, and the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from protoseg.config.compose import Composer, parse_overrides
from protoseg.config.load_matrix import load_matrix, matrix_names
from protoseg.config.matrix import Matrix
from protoseg.config.matrix_bundles import expanded
from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import ClusterProfile, load_profile, profile_names
from protoseg.paths import Paths, places
from protoseg.report import metrics

OK, FAILED = 0, 1
"""Exit statuses of a verb; wrong usage is an exception with its own, 2."""

PIPE_WIDTH = 500
CLUSTER = "cluster"


class _Console(Console):
    """A console that leaves a closed pipe to `protoseg.cli.main`: no failure of ours."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _of_cluster(word: str) -> bool:
    """Whether a word names a cluster profile or changes one."""
    key, equals, _ = word.lstrip("+~").partition("=")
    return key.startswith(f"{CLUSTER}.") or (key == CLUSTER and bool(equals))


class Context:
    """Reads the arguments that all verbs share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.json: bool = arguments.json
        self.places: Paths = places(
            experiments=arguments.experiments,
            runs=arguments.runs,
            results=arguments.results,
            data=arguments.data,
            weights=arguments.weights,
            clusters=arguments.clusters,
        )
        # A pipe has no width: wide enough that no line is broken and no message cut there.
        wide = None if sys.stdout.isatty() else PIPE_WIDTH
        self.console = _Console(width=wide, highlight=False, soft_wrap=wide is not None)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    @cached_property
    def composer(self) -> Composer:
        """Of the experiments folder."""
        return Composer(self.places.experiments)

    @property
    def record_folders(self) -> list[Path]:
        """Where committed records lie; none with ``--ignore-records``."""
        ignored = getattr(self.arguments, "ignore_records", False)
        return [] if ignored else [self.places.records]

    @property
    def words(self) -> list[str]:
        """The words of the call without those about a cluster."""
        return [word for word in self.arguments.words if not _of_cluster(word)]

    @cached_property
    def cluster(self) -> ClusterProfile | None:
        """The profile that ``cluster=NAME`` names, changed by ``cluster.KEY=VALUE``; or None.

        Raises:
            UsageError: an unknown name, key or value, or keys without a name.
        """
        words = [word for word in self.arguments.words if _of_cluster(word)]
        if not words:
            return None
        names = [word.partition("=")[2] for word in words if word.startswith(f"{CLUSTER}=")]
        changes = [word for word in words if not word.startswith(f"{CLUSTER}=")]
        known = ", ".join(profile_names(self.places.clusters)) or "none"
        if not names:
            raise UsageError(
                f"{changes[0]}: changes a cluster profile, and none is named; add "
                f"{CLUSTER}=NAME. Known: {known}."
            )
        if len(names) > 1:
            raise UsageError(
                f"{CLUSTER}: named {len(names)} times: {', '.join(names)}; a sweep goes to one."
            )
        return load_profile(self.places.clusters, names[0], changes)

    def matrices(self) -> tuple[list[Matrix], list[str]]:
        """The matrices and overrides among the words of the call; without one, all of them.

        A bundle stands for its matrices.

        Raises:
            UsageError: see `protoseg.config.load_matrix.load_matrix`.
        """
        words = self.words
        overrides = [word for word in words if "=" in word or word.startswith("~")]
        names = [word for word in words if word not in overrides]
        if not names:
            names = matrix_names(self.places.experiments)
            if self.arguments.verb == "sweep":  # among them are the paper's, for a cluster
                raise UsageError(
                    f"no matrix is named; name what is to be trained. Known: {', '.join(names)}."
                )
        if len(set(names)) < len(names):
            raise UsageError(f"a matrix is named twice: {' '.join(names)}.")
        names = list(dict.fromkeys(expanded(self.places.experiments, names)))
        matrices = [load_matrix(self.composer, name, overrides) for name in names]
        for name, matrix in zip(names, matrices, strict=True):
            metrics.check(matrix.table.metrics, f"{matrix.name}: table.metrics")
            # Tables are named after their matrix; one file must not write over another's.
            own = self.places.experiments / "matrices" / f"{matrix.name}.yaml"
            if name != matrix.name and own.exists() and not own.samefile(name):
                raise UsageError(f"{name}: there is a matrix '{matrix.name}' already; rename it.")
        if len({matrix.name for matrix in matrices}) < len(matrices):
            raise UsageError(f"two files of one name: {' '.join(names)}; rename one.")
        return matrices, overrides

    def one_run(self) -> RunSpec:
        """The run that the overrides of the call describe.

        Raises:
            UsageError: several values of one key, or values that could not be trained.
        """
        verb, settings = self.arguments.verb, {}
        for key, values in parse_overrides(self.words):
            if len(values) > 1:
                raise UsageError(
                    f"override '{key}': {verb} takes one run; use a matrix for a sweep."
                )
            if key in settings:
                raise UsageError(f"override '{key}': stands twice; keep one of them.")
            settings[key] = values[0]
        spec = self.composer.spec(list(settings.values()), verb)
        check_values(spec, verb)
        return spec

    def print_json(self, value: Any) -> None:
        """Print a result as JSON."""
        print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))

    def print_errors(self, sentences: list[str]) -> int:
        """Print problems on standard error; the exit status that follows from them."""
        for sentence in sentences:
            self.errors.print(sentence, style="red", markup=False)
        return FAILED if sentences else OK


def part_of_one(word: str, known: Iterable[str]) -> str | None:
    """The one run id that a word is a part of; None where there is none.

    Raises:
        UsageError: several.
    """
    matching = [run_id for run_id in known if word in run_id]
    if len(matching) > 1:
        some = ", ".join(matching[:5]) + (" ..." if len(matching) > 5 else "")
        raise UsageError(f"'{word}' is a part of {len(matching)} runs: {some}. Give more of it.")
    return matching[0] if matching else None
