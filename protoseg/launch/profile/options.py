"""Options of sbatch in a cluster profile: ``sbatch`` and ``next_stage_sbatch``."""

from __future__ import annotations

from typing import Any

from protoseg.errors import UsageError
from protoseg.launch.profile.resources import check_value
from protoseg.launch.profile.values import check_name, check_text

RESERVED_OPTIONS = {
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
"""Options of sbatch -> the profile's key for them, or ``""`` if only protoseg sets them."""

NEXT_STAGE_OPTIONS = {
    *("account", "constraint", "cpus-per-task", "gpus", "gpus-per-node", "mem", "nodes", "ntasks"),
    *("partition", "qos", "reservation", "time"),
}
"""Reserved options that ``next_stage_sbatch`` may set: the job that it describes has other
resources than a run."""


def check_option(flag: str, value: Any, where: str) -> None:
    """Check an option of ``sbatch``.

    Args:
        flag: its name without dashes.
        value: its value; True if it has none.
        where: location for error messages.

    Raises:
        UsageError: not a long option, not a value, or an option that protoseg sets.
    """
    check_value(where, check_name, "flag", flag)
    # getopt accepts every unambiguous prefix of an option.
    reserved = [option for option in RESERVED_OPTIONS if option.startswith(flag)]
    if reserved:
        keys = [RESERVED_OPTIONS[option] for option in reserved if RESERVED_OPTIONS[option]]
        owner = f"the profile's key '{keys[0]}'" if keys else "protoseg itself"
        raise UsageError(f"{where}: '--{reserved[0]}' is set by {owner}. Remove it here.")
    _check_option_value(value, where)


def check_next_stage_option(flag: str, value: Any, where: str) -> None:
    """Check an option of ``next_stage_sbatch``; arguments and errors as for `check_option`."""
    if flag in NEXT_STAGE_OPTIONS:
        _check_option_value(value, where)
        return
    abbreviated = [option for option in sorted(NEXT_STAGE_OPTIONS) if option.startswith(flag)]
    if abbreviated:  # it would not replace the option of the profile
        raise UsageError(
            f"{where}: abbreviates '--{abbreviated[0]}'. Allowed: long names of options. Write "
            f"'{abbreviated[0]}'."
        )
    if "dependency".startswith(flag):
        raise UsageError(f"{where}: '--dependency' is set by protoseg itself. Remove it here.")
    check_option(flag, value, where)


def _check_option_value(value: Any, where: str) -> None:
    if value is True or (isinstance(value, int | float) and not isinstance(value, bool)):
        return
    if not isinstance(value, str):
        raise UsageError(
            f"{where}: found {value!r}. Allowed: text, a number, or true for an option without a "
            "value."
        )
    check_value(where, check_text, value)
