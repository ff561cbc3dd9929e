"""``python -m protoseg.training.builders.recipe_files``: reads recipes for a planning process.

Only mmengine can resolve a recipe, and planning does not import it. The program reads a JSON object
``{"files": [PATH, ...], "configs": FOLDER}`` from standard input. It prints one JSON object: path
-> ``values`` of each role (or a text: why the recipe cannot have it), ``given`` and ``unused``; or
``error``, one sentence. Runs read no recipe file: they take `protoseg.config.recipes.values`.
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import load

from protoseg.config.recipes.locked import BASE, find_configs_folder
from protoseg.config.recipes.sections import (
    SECTIONS,
    NotTakenError,
    find_value,
    list_leaves,
    take_values,
    to_json,
)
from protoseg.errors import UsageError

RUNNER = (
    *("model", "optim_wrapper", "param_scheduler", "auto_scale_lr", "randomness", "load_from"),
    *("train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg"),
    *("val_evaluator", "test_evaluator", "default_hooks", "custom_hooks", "custom_imports"),
    *("resume", "env_cfg", "visualizer", "vis_backends", "log_processor", "log_level"),
    *("launcher", "work_dir", "experiment_name", "default_scope", "tta_model", "tta_pipeline"),
)
"""Sections of a recipe that mmengine's Runner or mmseg's tools use."""
NAMES_ONLY = ("data_preprocessor",)
"""Sections of the Runner that mmseg's recipes use as variables."""


def load_file(path: Path) -> dict[str, Any]:
    """Load a recipe with all its bases, as nested dictionaries.

    Raises:
        Exception: whatever the code of the recipe or mmengine raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config: dict[str, Any] = Config.fromfile(str(path), import_custom_modules=False).to_dict()
    return config


def load_recipe(name: str) -> Config:
    """Load a recipe of the installed mmseg by its path below mmseg's configs folder.

    Returns:
        A copy, which may be changed.

    Raises:
        UsageError: the installed mmseg has no such recipe.
    """
    return Config(copy.deepcopy(_load_once(name)))


@functools.cache
def _load_once(name: str) -> dict[str, Any]:
    folder = find_configs_folder()
    if folder is None or not (folder / name).is_file():
        raise UsageError(f"{name}: the installed mmseg has no such recipe. Name another one.")
    return load_file(folder / name)


def take_roles(config: dict[str, Any]) -> dict[str, Any]:
    """The values of each role, or the reason why the recipe cannot have it, a text."""
    values: dict[str, Any] = {}
    for role in SECTIONS:
        try:
            values[role] = take_values(role, config)
        except NotTakenError as error:
            values[role] = str(error)
    return values


class OwnRecipe:
    """A recipe that is not part of mmseg, with the values that its files set.

    Args:
        path: of the file.
        configs: folder of mmseg's recipes; files in it are not the user's.
    """

    def __init__(self, path: Path, configs: Path) -> None:
        self.path = path
        self.configs = configs
        self.assigned: dict[str, Path] = {}
        """Name at the top level -> the file of the user that sets it."""
        self.used: set[str] = set()
        """Names that the user's files read."""
        self.config = load_file(path)
        self.base = self._load_base(path)

    def describe(self) -> dict[str, Any]:
        """The answer of the program for this recipe."""
        base = dict(list_leaves(self.base, ""))
        changes = {}
        for path, value in list_leaves({k: self.config[k] for k in self.config}, ""):
            if path.partition(".")[0] in RUNNER and (path not in base or base[path] != value):
                changes[path] = _describe_value(value)
        for path in base:
            if path.partition(".")[0] in RUNNER and find_value(self.config, path) is None:
                changes.setdefault(path, None)
        unused = [n for n in self.assigned if n not in self.used and not n.startswith("_")]
        return {
            "values": take_roles(self.config),
            "given": changes,
            "unused": [n for n in unused if n not in (*RUNNER, *NAMES_ONLY)],
        }

    def _load_base(self, path: Path) -> dict[str, Any]:
        """The recipe without the values of the user's files: the mmseg recipes it is based on."""
        self._read_names(path)
        merged: dict[str, Any] = {}
        if Config._is_lazy_import(str(path)):
            return merged
        for name in Config._get_base_files(str(path)):
            base = Path(Config._get_cfg_path(name, str(path))[0]).resolve()
            is_shipped = base.is_relative_to(self.configs)
            merged |= load_file(base) if is_shipped else self._load_base(base)
        return merged

    def _read_names(self, path: Path) -> None:
        """Collect the names that a file sets and reads; other formats than Python read none."""
        if path.suffix != ".py":
            names = [str(name) for name in load(path)]
            self.assigned |= dict.fromkeys((n for n in names if n != BASE), path)
            return
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            self.assigned |= {t.id: path for t in targets if isinstance(t, ast.Name)}
        for part in ast.walk(tree):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                self.used.add(part.id)
            elif isinstance(part, ast.Attribute):
                self.used.add(part.attr)


def _describe_value(value: Any) -> Any:
    try:
        return to_json(value, "", mark_tuples=False)
    except NotTakenError:
        return repr(value)


def describe_error(path: Path, error: Exception) -> str:
    """One sentence for an error that a recipe raised."""
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(" .:")
    if isinstance(error, SyntaxError) and error.lineno:
        reason = f"line {error.lineno} is not valid Python ({error.msg})"
    elif isinstance(error, FileNotFoundError):
        missing = error.filename or str(error).partition('"')[2].partition('"')[0]
        reason = f"its base {os.path.normpath(missing)} is missing"
    return f"{path}: not a readable recipe: {reason}. Correct the file, or name another one."


def main() -> int:
    """Answer one request."""
    answers, descriptor = {}, os.dup(1)
    os.dup2(2, 1)  # what a recipe prints must not mix with the answer
    request = json.loads(sys.stdin.read())
    configs = Path(request["configs"] or "/nonexistent").resolve()
    for file in map(Path, request["files"]):
        try:
            is_shipped = file.resolve().is_relative_to(configs)
            answers[str(file)] = (
                {"values": take_roles(load_file(file)), "given": {}, "unused": []}
                if is_shipped
                else OwnRecipe(file.resolve(), configs).describe()
            )
        except Exception as error:
            answers[str(file)] = {"error": describe_error(file, error)}
    with os.fdopen(descriptor, "w") as output:
        json.dump(answers, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
