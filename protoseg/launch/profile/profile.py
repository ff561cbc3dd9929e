"""Cluster profiles: how runs are submitted to a cluster. One YAML file per cluster in ``slurm/``.

Hydra composes a profile (its ``defaults`` may name another profile), and
``cluster.KEY=VALUE`` on the command line overrides it. No value is part of a run's identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from protoseg.config.compose import compose_file, refuse_changed_texts
from protoseg.config.fields import build, field_types, number
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.overrides import Setting, parse_overrides
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.launch.profile.options import check_next_stage_option, check_option
from protoseg.launch.profile.resources import Resources, check_value
from protoseg.launch.profile.rules import Rule, read_rule
from protoseg.launch.profile.values import YAML_NOUNS, check_name, check_text, check_time
from protoseg.runs.retry import RULES
from protoseg.runs.states import Reason

GROUP = "cluster"
SBATCH_KEYS = ("sbatch", "next_stage_sbatch")
"""Keys with options of sbatch below them."""
FREE_TEXT_KEYS = ("environment", *SBATCH_KEYS)
"""Keys with free keys below them and text as values."""

JOB_VARIABLE_PREFIXES = (
    "SLURM_JOB",
    "SLURM_ARRAY",
    "SLURM_STEP",
    "SLURM_TASK",
    "SLURM_NTASKS",
    "SLURM_PROC",
)
SHELL_READ_ONLY = {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}


@dataclass(frozen=True)
class ClusterProfile(Resources):
    """How runs are submitted to a cluster, and the resources of each run.

    Raises:
        UsageError: a value is out of range, unknown, or not allowed in a shell script.
    """

    name: str = "cluster"
    modules: tuple[str, ...] = ()
    """Modules loaded in this order before a run; if one cannot be loaded, the job stops."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of a run; their values are not expanded."""
    checkpoint_seconds: float = number(300.0, low=0)
    loggers: tuple[str, ...] = ()
    """Loggers of each run; see docs/loggers.md."""
    throttle: int = number(0, low=0)
    """Most runs of one array at once; 0 sets no limit."""
    array_size: int = number(1000, low=1)
    """Most runs in one array; the cluster's MaxArraySize also applies."""
    signal_seconds: int = number(120, low=1, high=65535)
    """How long before its time limit a run gets the signal to save."""
    requeue: bool = True
    """Whether SLURM requeues a run after a preemption or a failed node."""
    retries: dict[str, int | None] = field(default_factory=dict)
    """Reason -> limit, where it differs from `protoseg.runs.retry.RULES`."""
    memory_escalation: float = number(0.0, low=0, high=64)
    """After out-of-memory: retry once with the memory times this factor; 0 does not retry."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch by their long names; ``true`` for options without a value."""
    next_stage: bool = True
    """Whether a small job submits the next stage of a search when its trials have ended."""
    next_stage_sbatch: dict[str, Any] = field(default_factory=dict)
    """Options of this job by their long names, e.g. another partition. They replace those that it
    takes from the profile; see `protoseg.launch.next_stage`."""
    rules: tuple[dict[str, Any], ...] = ()
    """Runs with other resources; see `protoseg.launch.profile.rules`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for index, module in enumerate(self.modules):
            check_value(f"modules[{index}]", check_name, "module", module)
        for variable, value in self.environment.items():
            _check_variable(variable, f"environment.{variable}")
            check_value(f"environment.{variable}", check_text, value)
        for flag, value in self.sbatch.items():
            check_option(flag, value, f"sbatch.{flag}")
        for flag, value in self.next_stage_sbatch.items():
            check_next_stage_option(flag, value, f"next_stage_sbatch.{flag}")
        _check_retries(self.retries)
        if 0 < self.memory_escalation <= 1:
            raise UsageError(
                f"memory_escalation: {self.memory_escalation:g} does not raise the memory. "
                "Allowed: 0 (no retry), or more than 1."
            )
        if self.memory_escalation and not self.memory.strip("0"):
            raise UsageError(
                "memory_escalation: multiplies 'memory', which is not set to an amount. "
                "Set both keys, or none of them."
            )
        for resources in (self._base, *(rule.resources for rule in self._rules)):
            if self.signal_seconds >= resources.seconds:
                raise UsageError(
                    f"signal_seconds: {self.signal_seconds} s is not below the time limit of "
                    f"{resources.time}. Allowed: less than the time limit. Lower it, or raise time."
                )

    def resources(self, spec: Mapping[str, Any]) -> Resources:
        """Return the resources of a run, from its spec as plain data."""
        for rule in self._rules:
            if rule.matches(spec):
                return rule.resources.normalised()
        return self._base

    @cached_property
    def _base(self) -> Resources:
        return self.normalised()

    @cached_property
    def _rules(self) -> list[Rule]:
        names = [field.name for field in dataclasses.fields(Resources)]
        base = {name: getattr(self, name) for name in names}
        return [read_rule(rule, base, f"rules[{i}]") for i, rule in enumerate(self.rules)]


def _check_variable(name: str, where: str) -> None:
    check_value(where, check_name, "variable", name)
    if name in SHELL_READ_ONLY or name.startswith(JOB_VARIABLE_PREFIXES):
        owner = "the shell" if name in SHELL_READ_ONLY else "SLURM"
        raise UsageError(f"{where}: only {owner} may set this variable. Remove it.")


def _check_retries(retries: Mapping[str, int | None]) -> None:
    for name, limit in retries.items():
        if name not in list(Reason):
            raise UsageError(describe_unknown_name("reason", name, "retries", Reason))
        if limit is not None and limit < 0:
            raise UsageError(f"retries.{name}: {limit} is out of range; allowed: at least 0.")
        rule = RULES[Reason(name)]
        if rule.is_configurable or limit == rule.limit:
            continue
        if not rule.ignores_progress:
            raise UsageError(
                f"retries.{name}: not configurable. A run is started again as long as it makes "
                "progress, and never without progress. Remove this key."
            )
        raise UsageError(
            f"retries.{name}: not configurable. This error is never retried automatically. "
            "Remove this key; after mending the cause, run the sweep with --retry-failed."
        )


def list_profiles(folders: ConfigFolders) -> list[str]:
    """Return the names of the profiles."""
    return list(folders.list_files())


def load_profile(
    folders: ConfigFolders, name: str, overrides: Iterable[str] = ()
) -> ClusterProfile:
    """Read a cluster profile.

    Args:
        folders: folders of the YAML files.
        name: name of a profile.
        overrides: ``cluster.KEY=VALUE`` in Hydra's grammar. The value of a text key is used as
            typed (``cluster.time=90`` is 90 minutes).

    Raises:
        UsageError: an unknown profile or key, or an invalid value.
    """
    names = list_profiles(folders)
    if name not in names:
        raise UsageError(describe_unknown_name(GROUP, name, str(folders.first), names))
    where = f"{GROUP} {name}"
    data = compose_file(folders, name, [_parse_setting(text) for text in overrides], where)
    # Other texts are refused by `build`; an option of sbatch may be a number or true.
    options = dict.fromkeys(SBATCH_KEYS, dict[str, str])
    refuse_changed_texts(folders.find(f"{name}.yaml"), options.get, ("true", "false"))
    known = {field.name for field in dataclasses.fields(ClusterProfile)} - {"name"}
    for key in data:
        if key not in known:
            raise UsageError(describe_unknown_name("key", key, where, known))
    rules = data.get("rules") or ()
    parts = {where: data} | {f"{where}: rules[{i}]": rule for i, rule in enumerate(rules)}
    for location, part in parts.items():
        if isinstance(part, Mapping) and "time" in part:
            check_value(f"{location}: time", check_time, part["time"])
    try:
        profile: ClusterProfile = build(
            ClusterProfile, {**data, "name": name}, f"{where}: ", nouns=YAML_NOUNS
        )
    except UsageError as error:
        placed = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise UsageError(placed) from error
    return profile


def _parse_setting(text: str) -> Setting:
    """Parse one override; its key loses the prefix ``cluster.``."""
    full_key, _, typed = text.partition("=")
    key = full_key.lstrip("+").removeprefix(f"{GROUP}.")
    try:
        ((_, settings),) = parse_overrides([text])
    except UsageError:
        if not _is_text_key(key):
            raise
        return Setting(key, typed)
    if settings[0].delete:
        return dataclasses.replace(settings[0], key=key.lstrip("~").removeprefix(f"{GROUP}."))
    value = settings[0].value
    if _is_text_key(key) and (len(settings) > 1 or not isinstance(value, str)):
        # The grammar may read a number or a sweep; a text key keeps the typed text.
        is_flag = key.partition(".")[0] in SBATCH_KEYS and isinstance(value, bool)
        return Setting(key, value if is_flag else typed)
    if len(settings) > 1:
        raise UsageError(f"override '{text}': several values for '{key}'. Allowed: one value.")
    return Setting(key, value)


def _is_text_key(key: str) -> bool:
    owner, dot, _ = key.partition(".")
    return field_types(ClusterProfile).get(owner) is str if not dot else owner in FREE_TEXT_KEYS
