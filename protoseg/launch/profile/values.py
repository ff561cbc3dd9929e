"""Values of a cluster profile in SLURM's notation: times, amounts of memory, names.

All values are written to a shell script and to ``#SBATCH`` lines, so no value may contain a
character that ends a line or an argument there. A `UsageError` describes the value; the caller adds
the location.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from protoseg.config.fields import NOUNS
from protoseg.errors import UsageError

YAML_NOUNS = NOUNS | {str: "text in quotes"}
"""Type -> its name in messages about a profile. YAML reads 16 and 10:30 as numbers."""
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
    """Return the text if it is one line of printable text.

    Raises:
        UsageError: it contains control characters, line ends, or invalid bytes.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise UsageError(
                f"{text!r} contains a line end, a control character or invalid bytes. "
                "Allowed: one line of text."
            )
    return text


def check_name(name_type: str, text: str) -> str:
    """Return the text if it is a valid name of a ``name_type`` (see `_NAMES`).

    Raises:
        UsageError: SLURM or a shell would not accept it.
    """
    pattern, allowed = _NAMES[name_type]
    if not re.fullmatch(pattern, text, re.ASCII) or (name_type != "flag" and text.startswith("-")):
        raise UsageError(f"{text!r} is not allowed here. Allowed: {allowed}.")
    return text


def parse_time(text: str) -> int:
    """Parse a time limit in SLURM's forms (``90`` and ``1:30:00`` are 1.5 hours) into seconds.

    Raises:
        UsageError: not one of SLURM's forms, zero, or longer than 1,000 days.
    """
    match = _TIME.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not a time limit. Allowed: {TIME_FORMS}, e.g. '10:30' for 10.5 minutes, "
            "'1-12:00:00' for 1.5 days."
        )
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    hours = part["h"] + part["d_h"] + 24 * part["days"]
    minutes = part["m"] + part["d_m"] + part["minutes"] + 60 * hours
    seconds = part["s"] + part["d_s"] + 60 * minutes
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{text!r} is out of range. Allowed: more than 0, at most 1,000 days.")
    return seconds


def format_time(seconds: int) -> str:
    """Format seconds in SLURM's form: ``0:10:30``, ``1-12:00:00``."""
    days, rest = divmod(seconds, 86400)
    clock = (rest // 3600, rest // 60 % 60, rest % 60)
    hours, minutes, left = clock
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{left:02d}"
    return f"{hours}:{minutes:02d}:{left:02d}"


def check_time(value: Any) -> str:
    """Return a time limit in SLURM's form.

    Raises:
        UsageError: see `parse_time`; also for a number: YAML reads an unquoted 10:30 as 630.
    """
    if not isinstance(value, str):
        raise UsageError(
            f"expected text in quotes, found {value!r} (YAML reads 10:30 without quotes as 630). "
            f'Allowed: {TIME_FORMS}, e.g. "10:30".'
        )
    return format_time(parse_time(value))


def parse_memory(text: str) -> int:
    """Parse an amount such as ``16G`` into kibibytes; in SLURM, 0 means all memory of a node.

    Raises:
        UsageError: not a whole number with a unit, or more than any machine has.
    """
    match = _MEMORY.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not an amount of memory. Allowed: a whole number with K, M, G or T, "
            "e.g. '16G' (without a unit: M), or '0' for a whole node."
        )
    kibibytes = int(match[1]) * _KIBIBYTES[match[2].upper()]
    if kibibytes > 1000 * _KIBIBYTES["T"]:
        raise UsageError(f"{text!r} is out of range. Allowed: at most 1000T.")
    return kibibytes


def format_memory(kibibytes: int) -> str:
    """Format an amount in the largest unit that gives a whole number."""
    for unit in ("T", "G", "M"):
        if kibibytes and kibibytes % _KIBIBYTES[unit] == 0:
            return f"{kibibytes // _KIBIBYTES[unit]}{unit}"
    return f"{kibibytes}K" if kibibytes else "0"


def multiply_memory(text: str, factor: float) -> str:
    """Multiply an amount of memory, rounded up to whole mebibytes; ``""`` and ``0`` stay."""
    kibibytes = parse_memory(text) if text else 0
    if not kibibytes:
        return text
    mebibytes = -int(-kibibytes * factor // _KIBIBYTES["M"])
    return format_memory(mebibytes * _KIBIBYTES["M"])
