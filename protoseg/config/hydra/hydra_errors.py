"""Turns errors of Hydra and OmegaConf about a config file into one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from yaml import YAMLError

from protoseg.config.hydra.file_check import find_file_problem
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.errors import describe_unknown_name

NOUNS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "String": "text",
}
"""OmegaConf's name of a type -> its name in our messages."""


def describe_config_error(
    error: Exception,
    folders: ConfigFolders,
    chosen: Mapping[str, str],
    fields: Mapping[str, list[str]],
    name: str = "run",
) -> str:
    """Describe an error: the file, the key, and the problem.

    Args:
        error: raised by Hydra while it composed a config.
        folders: folders of the config files.
        chosen: group -> option; the message lists these files if the error names none.
        fields: name of a schema class -> its keys, to suggest the nearest one.
        name: the composed file, without its ending.

    Returns:
        One sentence.
    """
    problem = find_file_problem(folders, chosen, name)
    if problem is not None:
        return problem
    texts = [text for text in map(str, _list_causes(error)) if text.strip()]
    all_text = "\n".join(texts)
    named_file = re.search(r"In '([\w/.-]+)':", all_text)
    chosen_files = ", ".join(f"{group}/{option}.yaml" for group, option in chosen.items())
    named = f"{named_file[1]}.yaml" if named_file else chosen_files or f"{name}.yaml"
    file = folders.find(named)
    unknown_key = re.search(r"Key '(\w+)' not in '(\w+)'", all_text)
    if unknown_key:
        return describe_unknown_name(
            "key", unknown_key[1], str(file), fields.get(unknown_key[2], [])
        )
    if "is missing `_self_`" in all_text:
        return f"{file}: defaults: '_self_' is missing. Add it, usually as the last entry."
    position = re.search(r'in "(.+?)", line (\d+)', all_text)
    if position:  # a YAML error: `file` may list several files, the position names the right one
        reason = " ".join(texts[0].split())
        return f"{position[1]}: not a readable YAML file: {reason}."
    key = re.search(r"full_key: (\S+)", all_text)
    where = f"{file}: {key[1]}" if key else str(file)
    wrong = re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", all_text)
    if wrong:
        return f"{where}: expected {NOUNS.get(wrong[2], wrong[2])}, found '{wrong[1]}'."
    if "is not a ListConfig" in all_text:
        return f"{where}: expected a list."
    if re.search(r"Cannot assign \w+ to Dict", all_text):
        return f"{where}: expected a mapping."
    if isinstance(error, UnicodeDecodeError):
        return f"{where}: {describe_read_error(error)}"
    return (
        f"{where}: these files cannot be composed. Compare their 'defaults' and keys with other "
        "files of the same folder."
    )


def describe_read_error(error: Exception) -> str:
    """Describe why a YAML file cannot be read, without its name."""
    if isinstance(error, YAMLError):
        reason = " ".join(str(error).split())
    elif isinstance(error, UnicodeDecodeError):
        reason = "it is not UTF-8. Save it as UTF-8."
    elif isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror}."
    else:
        reason = "expected keys and values."
    return f"not a readable YAML file: {reason}"


def _list_causes(error: BaseException | None) -> Iterator[Any]:
    """Yield an error and its causes. A library that re-raises an error can make a cycle of them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
