"""The context of one call: its arguments, folders, matrices and consoles."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from protoseg.cli.arguments import CLUSTER, TRIAL_FIGURES, is_cluster_setting, split_overrides
from protoseg.cli.exit_status import FAILED, OK
from protoseg.cli.outputs import display_path
from protoseg.cli.progress import ProgressBar
from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import list_matrices, load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.matrix_bundles import expand_bundles
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import ProtosegError, UnchosenError, UsageError
from protoseg.launch.profile.profile import ClusterProfile, list_profiles, load_profile
from protoseg.loggers.registry import check_loggers
from protoseg.paths import DEFAULTS, Paths, find_paths
from protoseg.report import metrics
from protoseg.runs.results.choice import CHOICES
from protoseg.runs.results.evaluation import EVALUATIONS
from protoseg.runs.results.imported import IMPORTED

PIPE_WIDTH = 500
"""Width in characters of output that is not a terminal."""
LOGGERS = "PROTOSEG_LOGGERS"
FINAL_VERBS = ("tables", "figures", "explain", "compare", "evaluate", "samples")
"""Verbs that show final runs, so the settings of a search must be chosen."""


class PipeConsole(Console):
    """A console that raises BrokenPipeError, which `protoseg.cli.command_line.main` handles."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Context:
    """The context of one call of the command line.

    Attributes:
        arguments: the parsed command line.
        verb: the verb.
        json: whether the result is printed as JSON.
        paths: the folders of this call.
        console: standard output.
        errors: standard error.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.verb: str = arguments.verb
        self.json: bool = arguments.json
        self.paths: Paths = find_paths(**{name: getattr(arguments, name) for name in DEFAULTS})
        # A pipe has no width. With this one, no line is wrapped or truncated.
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self.console = PipeConsole(width=width, highlight=False, soft_wrap=width is not None)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.unreadable_matrices: list[str] = []
        """Why matrices that were not named cannot be read; `print_errors` prints it."""
        self.matrix_operands: dict[str, str] = {}
        """Name of a matrix -> the operand that names it: its name or the path of its file."""

    @cached_property
    def composer(self) -> Composer:
        """The composer of the folders of experiments."""
        return Composer(self.paths.experiments, *self.paths.other_experiments)

    @property
    def experiments(self) -> ConfigFolders:
        """The folders of experiments, those of a project first."""
        return self.composer.folders

    @property
    def clusters(self) -> ConfigFolders:
        """The folders of cluster profiles, those of a project first."""
        return ConfigFolders(self.paths.clusters, self.paths.other_clusters)

    @property
    def record_folders(self) -> list[Path]:
        """The folders of committed records; none with ``--ignore-records``."""
        is_ignored = getattr(self.arguments, "ignore_records", False)
        return [] if is_ignored else list(self.paths.record_folders)

    @property
    def operands(self) -> list[str]:
        """The operands of the call, except the settings of a cluster."""
        return [operand for operand in self.arguments.operands if not is_cluster_setting(operand)]

    @cached_property
    def cluster(self) -> ClusterProfile | None:
        """The profile of ``cluster=NAME``, changed by ``cluster.KEY=VALUE``; None: this machine.

        Raises:
            UsageError: an unknown name, key or value; keys without a name; several names.
        """
        settings = [operand for operand in self.arguments.operands if is_cluster_setting(operand)]
        if not settings:
            return None
        names = [each.partition("=")[2] for each in settings if each.startswith(f"{CLUSTER}=")]
        changes = [each for each in settings if not each.startswith(f"{CLUSTER}=")]
        known = ", ".join(list_profiles(self.clusters)) or "none"
        if not names:
            raise UsageError(
                f"{changes[0]}: changes a cluster profile, but no profile is named. "
                f"Known: {known}. Add {CLUSTER}=NAME."
            )
        if len(names) > 1:
            raise UsageError(
                f"{CLUSTER}: given {len(names)} times: {', '.join(names)}. Name one cluster."
            )
        return load_profile(self.clusters, names[0], changes)

    @property
    def loggers(self) -> list[str]:
        """The loggers of the runs of this call; they are no part of a run's identity.

        The first of these that names one: ``--logger``; ``loggers`` of the cluster profile; the
        names in PROTOSEG_LOGGERS, separated by commas.

        Raises:
            UsageError: an unknown name, or a logger whose package is not installed.
        """
        cluster = self.cluster
        text = os.environ.get(LOGGERS, "")
        sources = {
            "--logger": getattr(self.arguments, "logger", None) or (),
            f"cluster {cluster.name}: loggers" if cluster else "": cluster.loggers
            if cluster
            else (),
            LOGGERS: [name.strip() for name in text.split(",") if name.strip()],
        }
        named = ((where, names) for where, names in sources.items() if names)
        return next((check_loggers(names, where) for where, names in named), [])

    def matrices(self) -> tuple[list[Matrix], list[str]]:
        """The matrices and overrides among the operands.

        Without the name of a matrix: all that can be read; in a project, its own. A bundle is
        replaced by its matrices.

        Raises:
            UsageError: see `protoseg.config.load_matrix.load_matrix`; or a matrix is named twice.
        """
        overrides, names = split_overrides(self.operands)
        if not names:
            names = self._list_own_matrices()
            if self.verb == "sweep":  # some matrices are too large for one machine
                raise UsageError(
                    f"no matrix is named. Known: {', '.join(names)}. Name the matrices to train."
                )
            return self._load_readable_matrices(names, overrides), overrides
        if len(set(names)) < len(names):
            raise UsageError(f"a matrix is named twice: {' '.join(names)}. Name it once.")
        names = list(dict.fromkeys(expand_bundles(self.experiments, names)))
        matrices = [self.load_matrix(name, overrides) for name in names]
        for name, matrix in zip(names, matrices, strict=True):
            # Tables are named after their matrix: equal names would overwrite each other.
            committed = self.experiments.find(f"matrices/{matrix.name}.yaml")
            if name != matrix.name and committed.exists() and not committed.samefile(name):
                raise UsageError(
                    f"{name}: a matrix of the name '{matrix.name}' exists in {committed.parent}. "
                    "Rename the file."
                )
        if len({matrix.name for matrix in matrices}) < len(matrices):
            raise UsageError(f"two matrix files have one name: {' '.join(names)}. Rename one.")
        self.matrix_operands = {m.name: name for m, name in zip(matrices, names, strict=True)}
        return matrices, overrides

    def _list_own_matrices(self) -> list[str]:
        """List all matrices; in a project with matrices only its own."""
        own = list_matrices(ConfigFolders(self.paths.experiments))
        in_project = bool(self.paths.other_experiments and own)
        return own if in_project else list_matrices(self.experiments)

    def load_matrix(self, name: str, overrides: Iterable[str] = ()) -> Matrix:
        """Load a matrix; if the settings of its search are chosen, it has its final runs.

        Raises:
            UsageError: see `protoseg.config.load_matrix.load_matrix`; or an unknown metric.
            ProtosegError: a damaged choice; or no choice yet, for a verb that shows final runs.
        """
        matrix = load_matrix(self.composer, name, overrides)
        metrics.check_metrics(matrix.table.metrics, f"{matrix.name}: table.metrics")
        if matrix.tuning is None:
            return matrix
        from protoseg.report.tuning.choose import apply_choice, check_selection, require_choice
        from protoseg.report.tuning.rungs import promote_started
        from protoseg.runs.store import RecordStore

        check_selection(matrix)
        matrix, notes = apply_choice(matrix, self.choice_folders)
        matrix = promote_started(matrix, RecordStore(self.record_folders, self.paths.runs))
        if self.verb == "sweep":  # it refuses a choice of another search in the runs folder
            notes = [note for note in notes if not note.startswith(str(self.paths.runs))]
        if self.verb in FINAL_VERBS and not self._shows_trials:
            require_choice(matrix, notes)
        elif notes:
            self.errors.print(*notes, sep="\n", style="yellow", markup=False)
        return matrix

    @property
    def _shows_trials(self) -> bool:
        """Whether the call shows trials only, which do not need a choice."""
        kinds = getattr(self.arguments, "kind", None) or ()
        is_of_trials = bool(kinds) and all(name in TRIAL_FIGURES for name in kinds)
        return is_of_trials or bool(getattr(self.arguments, "trials", False))

    @property
    def choice_folders(self) -> list[Path]:
        """The folders of choices: of the runs, and beside each folder of records."""
        return self._list_folders(CHOICES)

    @property
    def evaluation_folders(self) -> list[Path]:
        """The folders of evaluations on other splits: of the runs, and beside the records."""
        return self._list_folders(EVALUATIONS)

    @property
    def imported_folders(self) -> list[Path]:
        """The folders of evaluations of imported weights: of the runs, and beside the records."""
        return self._list_folders(IMPORTED)

    def _list_folders(self, name: str) -> list[Path]:
        return [self.paths.runs / name, *(folder.parent / name for folder in self.record_folders)]

    def _load_readable_matrices(self, names: list[str], overrides: list[str]) -> list[Matrix]:
        matrices = []
        for name in names:
            try:
                matrices.append(self.load_matrix(name, overrides))
            except UnchosenError as error:
                self.errors.print(str(error), style="yellow", markup=False)
            except ProtosegError as error:
                self.unreadable_matrices.append(f"matrix {name} cannot be read: {error}")
        if not matrices and self.unreadable_matrices:
            raise UsageError(self.unreadable_matrices[0])
        return matrices

    def one_run(self) -> RunSpec:
        """The run that the overrides of the call describe.

        Raises:
            UsageError: several values of one key, or values that cannot be trained.
        """
        verb, settings = self.verb, {}
        for key, values in parse_overrides(self.operands):
            if len(values) > 1:
                raise UsageError(
                    f"override '{key}': {verb} takes one run; use a matrix for a sweep."
                )
            if key in settings:
                raise UsageError(f"override '{key}': given twice. Remove one.")
            settings[key] = values[0]
        spec = self.composer.spec(list(settings.values()), verb)
        check_values(spec, verb)
        return spec

    def print_config_notes(self) -> None:
        """Print which files a project replaces, and which recipes differ from the locked ones."""
        replaced = [
            f"{display_path(path)}: replaces the file of this name that comes with protoseg."
            for path, _ in self.experiments.list_replaced()
        ]
        for note in (*replaced, *self.composer.recipes.notes.values()):
            self.errors.print(note, style="yellow", markup=False)

    def print_json(self, value: Any) -> None:
        """Print a result as JSON."""
        print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))

    def print_errors(self, messages: list[str]) -> int:
        """Print messages to standard error; return FAILED if there are any, otherwise OK.

        The matrices that could not be read come first.
        """
        messages = [*self.unreadable_matrices, *messages]
        for message in messages:
            self.errors.print(message, style="red", markup=False)
        return FAILED if messages else OK

    def progress_bar(self, name: str) -> ProgressBar:
        """A progress bar; invisible with ``--json`` and where standard error is not a terminal."""
        return ProgressBar(self.errors, name, is_visible=not self.json and sys.stderr.isatty())
