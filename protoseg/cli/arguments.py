"""Numbers on the command line; what is none of them is said in argparse's own words."""

from __future__ import annotations

import argparse
import math


def count(text: str, low: int = 0) -> int:
    """A whole number from ``low``."""
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"expected a whole number from {low}, found '{text}'")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    return count(text, low=1)


def iterations(text: str) -> int:
    """The same behind --time, which may stand without a number."""
    if text.isdecimal():
        return positive(text)
    raise argparse.ArgumentTypeError(
        f"expected a whole number from 1, found '{text}'; matrices go before --time"
    )


def seconds(text: str) -> float:
    """A finite number from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0, found '{text}'")
    return number
