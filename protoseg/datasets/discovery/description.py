"""The YAML file of a guessed data set, with the guesses as comments."""

from __future__ import annotations

import json
from typing import Any

from protoseg.datasets.discovery.guess import Guess

WIDTH = 96


def describe_guess(guess: Guess) -> str:
    """The text of ``experiments/dataset/NAME.yaml``."""
    name = guess.fields["name"]
    lines = [
        f"# {name}, written by 'protoseg data init' from {guess.maps_read} of {guess.pairs} label "
        "maps.",
        "# Guessed:",
        *_comment(guess.guesses),
        "# Not known, please check:",
        *_comment(guess.unknown or ["nothing"]),
        "defaults: [schema, _self_]",
    ]
    palette = guess.fields.get("palette", {})
    for key, value in guess.fields.items():
        if key == "palette":
            lines.append("palette:")
            lines += [f"  {_quote(label)}: {json.dumps(colors)}" for label, colors in value.items()]
        elif key == "classes":
            lines += _list_classes(guess, value)
        else:
            lines.append(f"{key}: {_quote(value)}")
    ignored = [row for row in guess.classes if row["name"] in ("ignored", "ignore")]
    if ignored and not palette:
        lines += [f"# {_describe_row(row)}" for row in ignored]
    return "\n".join([*lines, ""])


def _list_classes(guess: Guess, names: list[str]) -> list[str]:
    """One class a line, with its value or colour and its share as a comment."""
    rows = {row["name"]: row for row in guess.classes}
    lines = ["classes:"]
    for name in names:
        comment = (
            f"  # {_describe_row(rows[name])}" if name in rows else "  # in no map that was read"
        )
        lines.append(f"  - {_quote(name)}{comment}")
    return lines


def _describe_row(row: dict[str, Any]) -> str:
    code = row["color"] if "color" in row else row["value"]
    noun = "map" if row["maps"] == 1 else "maps"
    return f"{code}: {100 * row['share']:.2f}% of the pixels, in {row['maps']} {noun}"


def _comment(sentences: list[str]) -> list[str]:
    return [f"#   - {' '.join(sentence.split())}" for sentence in sentences]


def _quote(value: Any) -> str:
    """A value as YAML; JSON's notation keeps text such as ``off`` and ``010`` as text."""
    return json.dumps(value, ensure_ascii=False)
