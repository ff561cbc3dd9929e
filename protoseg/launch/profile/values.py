"""Values of a cluster profile as SLURM writes them: times, amounts of memory, names.

All of them end up in a shell script and in ``#SBATCH`` lines, so nothing passes that could end a
line or a word there. Errors are `UsageError`; they say what is wrong with the value, and the
caller puts the place in front.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from protoseg.errors import UsageError

TIME_FORMS = "minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S"
LONGEST_SECONDS = 1000 * 86400
_TIME = re.compile(
    r"""(?:(?P<days>\d{1,4})-(?P<d_h>\d{1,4})(?::(?P<d_m>\d{1,6})(?::(?P<d_s>\d{1,8}))?)?
        |(?:(?P<h>\d{1,6}):)?(?P<m>\d{1,8}):(?P<s>\d{1,8})
        |(?P<minutes>\d{1,8}))""",
    re.VERBOSE | re.ASCII,
)
_MEMORY = re.compile(r"(\d{1,12})([KMGT]?)B?", re.ASCII | re.IGNORECASE)
_KIBIBYTES = {"K": 1, "M": 2**10, "": 2**10, "G": 2**20, "T": 2**30}
"""SLURM's units are powers of 1024; without one it reads mebibytes."""

_NAMES = {
    "partition": (r"[\w.,@:+-]+", "letters, digits and _ . , @ : + -"),
    "account": (r"[\w.@:+-]+", "letters, digits and _ . @ : + -"),
    "qos": (r"[\w.@:+-]+", "letters, digits and _ . @ : + -"),
    "reservation": (r"[\w.,@:+-]+", "letters, digits and _ . , @ : + -"),
    "gpu_type": (r"[\w.-]+", "letters, digits and _ . -"),
    "constraint": (
        r"[\w.,@:+&|()\[\]*=!-]+",
        "names of features, joined by & | , * and brackets, without spaces",
    ),
    "module": (r"[\w.+@=~][\w./+@=~:-]*", "letters, digits and _ . / + @ = ~ : -"),
    "variable": (r"[A-Za-z_]\w*", "letters, digits and _, not starting with a digit"),
    "flag": (r"[a-z][a-z0-9]*(-[a-z0-9]+)*", "a long option of sbatch without its dashes"),
    "job name": (r"[\w.-]{1,200}", "letters, digits and _ . -"),
}


def check_text(text: str) -> str:
    """The text itself, if it is one line of characters that can be seen.

    Raises:
        UsageError: it holds control characters, line ends, or bytes that are no text.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise UsageError(
                f"{text!r} holds a line end, a control character or bytes that are no text; "
                "allowed: one line of text."
            )
    return text


def check_name(kind: str, text: str) -> str:
    """The text itself, if it may stand where SLURM or a shell wants a ``kind`` (see `_NAMES`).

    Raises:
        UsageError: it may not.
    """
    pattern, allowed = _NAMES[kind]
    if not re.fullmatch(pattern, text, re.ASCII) or (kind != "flag" and text.startswith("-")):
        raise UsageError(f"{text!r} can not stand here; allowed: {allowed}.")
    return text


def parse_time(text: str) -> int:
    """Seconds of a time limit as SLURM reads it: ``90`` and ``1:30:00`` are an hour and a half.

    Raises:
        UsageError: not in one of SLURM's forms, zero, or longer than 1000 days.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text!r} is no time limit; allowed: {TIME_FORMS}, e.g. '10:30' for ten and a half "
            "minutes, '1-12:00:00' for a day and a half."
        )
    part = {name: int(value or 0) for name, value in found.groupdict().items()}
    hours = part["h"] + part["d_h"] + 24 * part["days"]
    minutes = part["m"] + part["d_m"] + part["minutes"] + 60 * hours
    seconds = part["s"] + part["d_s"] + 60 * minutes
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{text!r} is out of range; allowed: more than 0, at most 1000 days.")
    return seconds


def format_time(seconds: int) -> str:
    """Seconds in SLURM's own form: ``0:10:30``, ``1-12:00:00``."""
    days, rest = divmod(seconds, 86400)
    clock = (rest // 3600, rest // 60 % 60, rest % 60)
    hours, minutes, left = clock
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{left:02d}"
    return f"{hours}:{minutes:02d}:{left:02d}"


def check_time(value: Any) -> str:
    """A time limit in SLURM's own form.

    Raises:
        UsageError: see `parse_time`; also a number, for YAML makes 630 of an unquoted 10:30.
    """
    if not isinstance(value, str):
        raise UsageError(
            f"expected text in quotes, found {value!r} (YAML reads 10:30 without quotes as 630); "
            f'allowed: {TIME_FORMS}, e.g. "10:30".'
        )
    return format_time(parse_time(value))


def parse_memory(text: str) -> int:
    """Kibibytes of an amount such as ``16G``; 0 is SLURM's word for all that a node has.

    Raises:
        UsageError: not a whole number with a unit, or more than any machine has.
    """
    found = _MEMORY.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text!r} is no amount of memory; allowed: a whole number with K, M, G or T, e.g. "
            "'16G' (without a unit: M), or '0' for a whole node."
        )
    kibibytes = int(found[1]) * _KIBIBYTES[found[2].upper()]
    if kibibytes > 1000 * _KIBIBYTES["T"]:
        raise UsageError(f"{text!r} is out of range; allowed: at most 1000T.")
    return kibibytes


def format_memory(kibibytes: int) -> str:
    """The amount in the largest unit that leaves a whole number."""
    for unit in ("T", "G", "M"):
        if kibibytes and kibibytes % _KIBIBYTES[unit] == 0:
            return f"{kibibytes // _KIBIBYTES[unit]}{unit}"
    return f"{kibibytes}K" if kibibytes else "0"


def times_memory(text: str, factor: float) -> str:
    """An amount of memory multiplied, rounded up to whole mebibytes; ``""`` and ``0`` stay."""
    kibibytes = parse_memory(text) if text else 0
    if not kibibytes:
        return text
    mebibytes = -int(-kibibytes * factor // _KIBIBYTES["M"])
    return format_memory(mebibytes * _KIBIBYTES["M"])
