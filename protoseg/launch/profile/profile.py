"""Cluster profiles: how runs are submitted at a site. One YAML file each, in ``slurm/``.

A profile is composed by Hydra (its ``defaults`` may name another profile of the folder) and then
changed by ``cluster.KEY=VALUE`` on the command line. Nothing of it is part of a run's identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from protoseg.config.compose import Setting, compose_file, parse_overrides
from protoseg.config.fields import build, field_types, number
from protoseg.errors import UsageError, unknown
from protoseg.launch.profile.resources import Resources, checked
from protoseg.launch.profile.rules import Rule, read_rule
from protoseg.launch.profile.values import check_name, check_text, check_time
from protoseg.runs.retry import RULES
from protoseg.runs.states import Reason

GROUP = "cluster"
FREE = ("environment", "sbatch")
"""Keys whose own keys are free, and hold text."""

OF_THE_JOB = ("SLURM_JOB", "SLURM_ARRAY", "SLURM_STEP", "SLURM_TASK", "SLURM_NTASKS", "SLURM_PROC")
READ_ONLY = {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}

OURS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "mem": "memory",
    "nodes": "nodes",
    "no-requeue": "requeue",
    "ntasks": "processes",
    "ntasks-per-node": "processes",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "reservation": "reservation",
    "signal": "signal_seconds",
    "tasks-per-node": "processes",
    "time": "time",
    **dict.fromkeys(("array", "output", "error", "input", "open-mode", "job-name", "chdir"), ""),
    **dict.fromkeys(("workdir", "export", "export-file", "get-user-env", "wrap", "wait"), ""),
    **dict.fromkeys(("parsable", "test-only", "quiet", "verbose", "help", "usage", "version"), ""),
    **dict.fromkeys(("clusters", "cluster", "uid", "gid", "ignore-pbs"), ""),
}
"""Options of sbatch that a profile sets by keys of its own, or that are protoseg's: ``""``."""


@dataclass(frozen=True)
class ClusterProfile(Resources):
    """How runs are submitted at a site, and the resources that each one gets.

    Raises:
        UsageError: a value out of range, unknown, or unfit for a shell script.
    """

    name: str = "cluster"
    modules: tuple[str, ...] = ()
    """Loaded in this order before a run; one that can not be loaded stops the job."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables set for a run, taken word for word."""
    checkpoint_seconds: float = number(300.0, low=0)
    throttle: int = number(0, low=0)
    """Runs of one array at once; 0 sets no limit."""
    array_size: int = number(1000, low=1)
    """Runs in one array at most; the cluster's MaxArraySize cuts further."""
    signal_seconds: int = number(120, low=1, high=65535)
    """How long before its time limit a run is told to save."""
    requeue: bool = True
    """Let SLURM put a run back into the queue after a preemption or a failed node."""
    retries: dict[str, int | None] = field(default_factory=dict)
    """Reason -> limit, where it differs from `protoseg.runs.retry.RULES`."""
    memory_escalation: float = number(0.0, low=0, high=64)
    """Out of memory: once more with this many times the memory; 0 stops instead."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, by its long name; ``true`` for those without a value."""
    rules: tuple[dict[str, Any], ...] = ()
    """Runs that get other resources; see `protoseg.launch.profile.rules`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for index, module in enumerate(self.modules):
            checked(f"modules[{index}]", check_name, "module", module)
        for variable, value in self.environment.items():
            _check_variable(variable, f"environment.{variable}")
            checked(f"environment.{variable}", check_text, value)
        for flag, value in self.sbatch.items():
            _check_flag(flag, value, f"sbatch.{flag}")
        _check_retries(self.retries)
        if 0 < self.memory_escalation <= 1:
            raise UsageError(
                f"memory_escalation: {self.memory_escalation:g} gives no more memory; allowed: "
                "0 (stop), or more than 1."
            )
        if self.memory_escalation and not self.memory.strip("0"):
            raise UsageError(
                "memory_escalation: multiplies 'memory', which names no amount; set both, or none."
            )
        for resources in (self._base, *(rule.resources for rule in self._rules)):
            if self.signal_seconds >= resources.seconds:
                raise UsageError(
                    f"signal_seconds: {self.signal_seconds} s before the end of a time limit of "
                    f"{resources.time} the run has not begun; allowed: less than the time limit."
                )

    def resources(self, spec: Mapping[str, Any]) -> Resources:
        """What a run asks for, by its spec as plain data."""
        for rule in self._rules:
            if rule.holds(spec):
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
    checked(where, check_name, "variable", name)
    if name in READ_ONLY or name.startswith(OF_THE_JOB):
        owner = "the shell" if name in READ_ONLY else "SLURM"
        raise UsageError(f"{where}: is set by {owner} and not to be changed; remove it.")


def _check_flag(flag: str, value: Any, where: str) -> None:
    checked(where, check_name, "flag", flag)
    # getopt takes every unambiguous beginning of an option for the whole.
    owned = [ours for ours in OURS if ours.startswith(flag)]
    if owned:
        keys = [OURS[ours] for ours in owned if OURS[ours]]
        how = f"set by the key '{keys[0]}'" if keys else "protoseg's own, and not to be changed"
        raise UsageError(f"{where}: '--{owned[0]}' is {how}; remove it here.")
    if value is True or (isinstance(value, int | float) and not isinstance(value, bool)):
        return
    if not isinstance(value, str):
        raise UsageError(
            f"{where}: expected text, a number, or true for an option without a value, found "
            f"{value!r}."
        )
    checked(where, check_text, value)


def _check_retries(retries: Mapping[str, int | None]) -> None:
    for name, limit in retries.items():
        if name not in list(Reason):
            raise UsageError(unknown("reason", name, "retries", Reason))
        if limit is not None and limit < 0:
            raise UsageError(f"retries.{name}: {limit} is out of range; allowed: at least 0.")
        rule = RULES[Reason(name)]
        if rule.is_configurable or limit == rule.limit:
            continue
        if not rule.ignores_progress:
            raise UsageError(
                f"retries.{name}: a run goes on after its time limit as often as it gets further, "
                "and not at all where it does not; remove it."
            )
        raise UsageError(
            f"retries.{name}: such an error is not retried by itself; leave it 0, mend the "
            "cause and run the sweep with --retry-failed."
        )


def profile_names(folder: Path) -> list[str]:
    """The profiles of a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_profile(folder: Path, name: str, overrides: Iterable[str] = ()) -> ClusterProfile:
    """Read a profile.

    Args:
        folder: of the YAML files.
        name: of one of them.
        overrides: ``cluster.KEY=VALUE``, in Hydra's grammar; where the key holds text, the value
            is taken as it was typed (``cluster.time=90`` are ninety minutes).

    Raises:
        UsageError: an unknown profile or key, or a value that is wrong; one sentence.
    """
    names = profile_names(folder)
    if name not in names:
        raise UsageError(unknown(GROUP, name, str(folder), names))
    where = f"{GROUP} {name}"
    data = compose_file(folder, name, [_setting(text) for text in overrides], where)
    known = {field.name for field in dataclasses.fields(ClusterProfile)} - {"name"}
    for key in data:
        if key not in known:
            raise UsageError(unknown("key", key, where, known))
    rules = data.get("rules") or ()
    parts = {where: data} | {f"{where}: rules[{i}]": rule for i, rule in enumerate(rules)}
    for place, part in parts.items():
        if isinstance(part, Mapping) and "time" in part:
            checked(f"{place}: time", check_time, part["time"])
    try:
        profile: ClusterProfile = build(ClusterProfile, {**data, "name": name}, f"{where}: ")
    except UsageError as error:
        message = str(error).replace("expected text, found", "expected text in quotes, found")
        placed = message if message.startswith(where) else f"{where}: {message}"
        raise UsageError(placed) from error
    return profile


def _setting(text: str) -> Setting:
    """One word of the command line, its key without the ``cluster.`` in front."""
    given, _, typed = text.partition("=")
    key = given.lstrip("+").removeprefix(f"{GROUP}.")
    try:
        ((_, settings),) = parse_overrides([text])
    except UsageError:
        if not _holds_text(key):
            raise
        return Setting(key, typed)
    if settings[0].delete:
        return dataclasses.replace(settings[0], key=key.lstrip("~").removeprefix(f"{GROUP}."))
    value = settings[0].value
    if _holds_text(key) and (len(settings) > 1 or not isinstance(value, str)):
        # What the grammar makes a number or a sweep of is still the text that was typed.
        plain_flag = key.startswith("sbatch.") and isinstance(value, bool)
        return Setting(key, value if plain_flag else typed)
    if len(settings) > 1:
        raise UsageError(f"override '{text}': a profile has one value for '{key}', not several.")
    return Setting(key, value)


def _holds_text(key: str) -> bool:
    owner, dot, _ = key.partition(".")
    return field_types(ClusterProfile).get(owner) is str if not dot else owner in FREE
