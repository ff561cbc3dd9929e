"""One sentence out of Hydra's and OmegaConf's reports on a config file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protoseg.errors import unknown

NOUNS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "String": "text",
}
"""What OmegaConf calls a type, and what our own messages call it."""


def config_problem(
    error: Exception,
    experiments: Path,
    chosen: Mapping[str, str],
    fields: Mapping[str, list[str]],
    name: str = "run",
) -> str:
    """The file, the key in it, and what is wrong with it.

    Args:
        error: what composing raised.
        experiments: the folder of config files.
        chosen: group -> option; named where the error does not say in which file it arose.
        fields: class of the schema -> its keys, for the nearest known one.
        name: the file that was composed, without its ending.
    """
    texts = [text for text in map(str, _chain(error)) if text.strip()]
    everything = "\n".join(texts)
    named = re.search(r"In '([\w/.-]+)':", everything)
    several = ", ".join(f"{group}/{option}.yaml" for group, option in chosen.items())
    file = experiments / (f"{named[1]}.yaml" if named else several or f"{name}.yaml")
    stranger = re.search(r"Key '(\w+)' not in '(\w+)'", everything)
    if stranger:
        return unknown("key", stranger[1], str(file), fields.get(stranger[2], []))
    position = re.search(r'in "(.+?)", line (\d+)', everything)
    if position:  # the YAML itself: `file` may be any of those chosen, the mark is exact
        reason = " ".join(texts[0].split())
        return f"{position[1]}: not a readable YAML file: {reason}."
    key = re.search(r"full_key: (\S+)", everything)
    where = f"{file}: {key[1]}" if key else str(file)
    typed = re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", everything)
    if typed:
        return f"{where}: expected {NOUNS.get(typed[2], typed[2])}, found '{typed[1]}'."
    if "is not a ListConfig" in everything:
        return f"{where}: expected a list."
    if re.search(r"Cannot assign \w+ to Dict", everything):
        return f"{where}: expected a mapping."
    raised = (text for text in texts if "raised while composing config" not in text)
    reason = next(raised, texts[0] if texts else type(error).__name__)
    reason = re.sub(r"^In '[\w/.-]+': ", "", reason.strip()).splitlines()[0].rstrip(".")
    return f"{where}: {reason}."


def _chain(error: BaseException | None) -> Iterator[Any]:
    """An error and what caused it; a library that raises an old error again can close a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
