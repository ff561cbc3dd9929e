"""A reproduction for people: what it came to, and where the first difference lies."""

from __future__ import annotations

from typing import Any

from protoseg.reproduce.comparison import MISSING, CurveDifference, Reproduction

NAMES = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}


def lines(found: Reproduction) -> list[str]:
    """The report, line by line."""
    text = [_verdict(found)]
    if found.verdict != "bit-identical":
        text += [_metric(name, *values) for name, values in found.metrics.items()]
        text += _loss(found)
        text.append(_pixels(found))
    if found.same_weights is None:
        text.append("weights     the record names no digest of its weights to compare with")
    elif found.verdict != "bit-identical":
        text.append(f"weights     {'same bits' if found.same_weights else 'other bits'}")
    return text + _made_with(found.provenance)


def _made_with(provenance: dict[str, tuple[Any, Any]]) -> list[str]:
    if not provenance:
        return ["made with   the same code, packages, device and settings"]
    known = {name: both for name, both in provenance.items() if MISSING not in both}
    text = ["made with   recorded → now"] if known else []
    width = max(map(len, known), default=0)
    text += [f"  {name:<{width}}  {_value(a)} → {_value(b)}" for name, (a, b) in known.items()]
    for side, place in enumerate(("the record", "the new run")):
        silent = [name for name, both in provenance.items() if both[side] == MISSING]
        if silent:
            text.append(f"not said    by {place}: {', '.join(silent)}")
    return text


def _verdict(found: Reproduction) -> str:
    if found.verdict == "bit-identical":
        parts = [
            *(["weights"] if found.same_weights else []),
            f"the counts of {found.images} images",
            "metrics",
            f"{found.curve_points} points of the loss curve",
        ]
        return f"bit-identical: {', '.join(parts)}"
    within = f"metrics within {found.points:g} points, loss within {100 * found.curve:g} %"
    if found.verdict == "equal":
        return f"equal within the tolerance, but not bit by bit ({within})"
    return f"different: beyond the tolerance ({within})"


def _metric(name: str, recorded: float, again: float) -> str:
    return f"{NAMES[name]:<11} {recorded:.2f} → {again:.2f}  ({again - recorded:+.2g} points)"


def _loss(found: Reproduction) -> list[str]:
    if found.first is None:
        return [f"loss curve  the same {found.curve_points} points, bit by bit"]
    first = found.first
    before = f"the same until {first.equal_until}" if first.equal_until else "its first point"
    text = [f"loss curve  first differs at {_point(first)}; {before}"]
    if found.largest is not None:
        text.append(f"            most apart at {_point(found.largest)}")
    return text


def _point(difference: CurveDifference) -> str:
    values = f"{difference.recorded:.9g} → {difference.again:.9g}"
    return f"iteration {difference.iteration}: {difference.name} {values} ({_share(difference)})"


def _share(difference: CurveDifference) -> str:
    percent = 100 * difference.relative
    return f"{percent:.2g} %" if percent >= 0.01 else f"{difference.relative:.1e}, relative"


def _pixels(found: Reproduction) -> str:
    if not found.pixels_changed:
        return f"pixels      the same counts in all {found.images} images"
    share = 100 * found.pixels_changed / max(found.pixels, 1)
    return (
        f"pixels      at least {found.pixels_changed:,} of {found.pixels:,} ({share:.2g} %) got "
        f"another class, in {found.images_changed} of {found.images} images"
    )


def _value(value: Any) -> str:
    text = "none" if value is None else str(value)
    short = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:10] if short else text
