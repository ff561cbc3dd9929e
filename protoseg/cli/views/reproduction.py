"""The report of a reproduction as lines of text."""

from __future__ import annotations

from typing import Any

from protoseg.reproduce.comparison import MISSING, CurveDifference, Reproduction

NAMES = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}


def lines(reproduction: Reproduction) -> list[str]:
    """The lines of the report."""
    text = [_describe_verdict(reproduction)]
    if reproduction.verdict != "bit-identical":
        text += [_describe_metric(name, *values) for name, values in reproduction.metrics.items()]
        text += _describe_loss_curve(reproduction)
        text.append(_describe_pixels(reproduction))
    if reproduction.same_weights is None:
        text.append("weights     not compared: the record has no digest of its weights")
    elif reproduction.verdict != "bit-identical":
        equality = "bit-identical" if reproduction.same_weights else "not bit-identical"
        text.append(f"weights     {equality}")
    return text + _describe_provenance(reproduction.provenance)


def _describe_provenance(provenance: dict[str, tuple[Any, Any]]) -> list[str]:
    if not provenance:
        return ["made with   the same code, packages, device and settings"]
    known = {name: both for name, both in provenance.items() if MISSING not in both}
    text = ["made with   recorded → now"] if known else []
    width = max(map(len, known), default=0)
    text += [
        f"  {name:<{width}}  {_shorten_value(a)} → {_shorten_value(b)}"
        for name, (a, b) in known.items()
    ]
    for side, source in enumerate(("the record", "the new run")):
        missing = [name for name, both in provenance.items() if both[side] == MISSING]
        if missing:
            text.append(f"missing     in {source}: {', '.join(missing)}")
    return text


def _describe_verdict(reproduction: Reproduction) -> str:
    if reproduction.verdict == "bit-identical":
        parts = [
            *(["weights"] if reproduction.same_weights else []),
            f"the counts of {reproduction.images} images",
            "metrics",
            f"{reproduction.curve_points} points of the loss curve",
        ]
        return f"bit-identical: {', '.join(parts)}"
    within = (
        f"metrics within {reproduction.points:g} points, loss within {100 * reproduction.curve:g}%"
    )
    if reproduction.verdict == "equal":
        return f"equal within the tolerance, but not bit-identical ({within})"
    return f"different: outside the tolerance ({within})"


def _describe_metric(name: str, recorded: float, again: float) -> str:
    return f"{NAMES[name]:<11} {recorded:.2f} → {again:.2f}  ({again - recorded:+.2g} points)"


def _describe_loss_curve(reproduction: Reproduction) -> list[str]:
    if reproduction.first is None:
        return [f"loss curve  {reproduction.curve_points} points, bit-identical"]
    first = reproduction.first
    before = f"identical until {first.equal_until}" if first.equal_until else "its first point"
    text = [f"loss curve  first differs at {_describe_point(first)}; {before}"]
    if reproduction.largest is not None:
        text.append(f"            largest difference at {_describe_point(reproduction.largest)}")
    return text


def _describe_point(difference: CurveDifference) -> str:
    values = f"{difference.recorded:.9g} → {difference.again:.9g}"
    relative = _format_difference(difference)
    return f"iteration {difference.iteration}: {difference.name} {values} ({relative})"


def _format_difference(difference: CurveDifference) -> str:
    percent = 100 * difference.relative
    return f"{percent:.2g}%" if percent >= 0.01 else f"{difference.relative:.1e}, relative"


def _describe_pixels(reproduction: Reproduction) -> str:
    if not reproduction.pixels_changed:
        return f"pixels      identical counts in all {reproduction.images} images"
    changed, pixels = reproduction.pixels_changed, reproduction.pixels
    return (
        f"pixels      at least {changed:,} of {pixels:,} ({100 * changed / max(pixels, 1):.2g}%) "
        f"have another class, in {reproduction.images_changed} of {reproduction.images} images"
    )


def _shorten_value(value: Any) -> str:
    text = "none" if value is None else str(value)
    short = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:10] if short else text
