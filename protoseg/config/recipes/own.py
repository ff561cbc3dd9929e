"""Recipes of one's own: how they are read, and a refusal of what no run would take from them."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.recipes.ignored import WEIGHTS_ADVICE, find_replaced_value
from protoseg.config.recipes.sections import SECTIONS
from protoseg.config.recipes.values import ROLE_KEYS
from protoseg.errors import ProtosegError

PROGRAM = "protoseg.training.builders.recipe_files"
SECONDS = 300.0


def resolve_recipes(recipes: Iterable[Path], configs: Path | None) -> dict[Path, dict[str, Any]]:
    """Resolve recipes in another process, because this needs mmengine.

    Args:
        recipes: files.
        configs: folder of mmseg's recipes.

    Returns:
        File -> answer with ``values`` of each role, or a text: why the recipe cannot have it;
        ``given``: dotted path -> value of what the user's files change in the recipes of mmseg that
        they are based on; ``unused``: names that the user's files set and nothing reads. An answer
        for a file that cannot be read has only ``error``, a sentence.

    Raises:
        ProtosegError: mmengine does not start, or does not answer within `SECONDS`.
    """
    request = {"files": [str(file) for file in recipes], "configs": str(configs or "")}
    try:
        process = subprocess.run(
            [sys.executable, "-m", PROGRAM],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        answers: dict[str, dict[str, Any]] = json.loads(process.stdout)
    except subprocess.TimeoutExpired as error:
        raise ProtosegError(
            f"{request['files'][0]}: this recipe was not read within {SECONDS:.0f} s. Correct the "
            "file, or name another one."
        ) from error
    except ValueError as error:
        raise ProtosegError(
            f"{request['files'][0]}: mmengine cannot be started to read it "
            f"({files.last_line(process.stderr)}). Run 'protoseg doctor' to check the installation."
        ) from error
    return {Path(file): answer for file, answer in answers.items()}


def find_ignored_values(
    spec: Mapping[str, Any], roles: list[str], file: str, answer: Mapping[str, Any]
) -> Iterator[str]:
    """Describe the values of a recipe of one's own that a run would not use.

    Args:
        spec: the spec as plain data.
        roles: roles that the spec gives to the recipe.
        file: named in the messages.
        answer: from `resolve_recipe`.

    Yields:
        One or two sentences for each value.
    """
    where = f"{ROLE_KEYS[roles[0]]}: {file}"
    for name in answer["unused"]:
        known = sorted({path.partition(".")[0] for role in SECTIONS.values() for path in role})
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean '{near[0]}'?" if near else "Use it in a section, or remove it."
        yield f"{where}: sets '{name}', which nothing reads. {hint}"
    sections = [section for role in roles for section in SECTIONS[role]]
    if not spec["decoder"]["auxiliary"] and "model.auxiliary_head" in sections:
        sections.remove("model.auxiliary_head")
    for path, value in answer["given"].items():
        if not any(path == s or path.startswith(f"{s}.") for s in sections):
            if not _is_harmless(path, value):
                yield f"{where}: sets {path}, {_explain_sections(path, roles, spec)}"
        elif problem := find_replaced_value(spec, path, value):
            yield f"{where}: {problem}"


def _is_harmless(path: str, value: Any) -> bool:
    """Whether a value outside of all taken sections states what every run does anyway."""
    usual = {"model.type": "EncoderDecoder", "default_scope": "mmseg"}
    return value in (None, False, {}) or usual.get(path) == value


def _explain_sections(path: str, roles: list[str], spec: Mapping[str, Any]) -> str:
    if path == "model.pretrained":
        return f"{WEIGHTS_ADVICE}"
    if path.startswith("model.auxiliary_head") and "decoder" in roles:
        return "but decoder.auxiliary is false. Set decoder.auxiliary=true, or remove it."
    for role, sections in SECTIONS.items():
        if role not in roles and any(path.startswith(section) for section in sections):
            return (
                f"but {ROLE_KEYS[role]} is {spec[role]['recipe']}. Name this file there too, or "
                "remove the value."
            )
    if path.startswith("custom_imports"):
        return (
            "but a run imports only classes with a full name. Write type='package.module.Class', "
            "and remove it."
        )
    taken = " and ".join(section for role in roles for section in SECTIONS[role])
    return f"but a run takes only {taken} from it. Remove it, or set a field of the spec."
