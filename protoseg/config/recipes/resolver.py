"""Puts the values of recipes into specs, so that the identity of a run covers them.

- A recipe of the locked mmseg has the values of `protoseg.config.recipes.locked`. The spec holds
  its name only, so earlier runs keep their ids.
- Where the installed mmseg has another file of that name, or a new recipe, its values are read. If
  they differ from the locked ones, they enter the spec: the run is another run.
- A recipe of one's own enters with its values, and its path is replaced by their digest.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.recipes import locked
from protoseg.config.recipes.own import find_ignored_values, resolve_recipes
from protoseg.config.recipes.sections import SECTIONS, digest_values, list_leaves
from protoseg.config.recipes.values import ROLE_KEYS, describe_not_taken, read_locked_values
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

OWN = "own-"
"""Prefix of the name of a recipe of one's own in a spec; 10 digits of the digest follow."""
SHOWN = 3
"""Number of differing values that a note names."""


class RecipeResolver:
    """Resolves each recipe once, and collects notes for the user.

    Args:
        folder: relative paths of recipes of one's own start here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[str, str] = {}
        """Recipe -> sentences about its difference from the locked one."""
        self._answers: dict[Path, dict[str, Any]] = {}
        self._differing: dict[str, bool] = {}

    def add_values(self, spec: RunSpec, where: str) -> RunSpec:
        """Return a spec with the values of its recipes, unless their names represent them.

        Raises:
            UsageError: a recipe is missing, cannot be read, does not fit its role, or has values
                that a run would not use.
        """
        if spec.recipes:
            raise UsageError(
                f"{where}: recipes: protoseg sets it from the recipe files. Remove it; name the "
                f"files with {', '.join(ROLE_KEYS.values())}."
            )
        names, values = {}, {}
        own: dict[Path, list[str]] = {}
        for role in SECTIONS:
            name = getattr(spec, role).recipe
            file, shipped_name = self._locate(name, f"{where}: {ROLE_KEYS[role]}")
            names[role] = shipped_name
            if shipped_name and not self._differs(shipped_name, file):
                read_locked_values(role, shipped_name, where)  # refuses one without this role
                continue
            assert file is not None
            taken = self._take_values(role, file, where)
            if not shipped_name:
                own.setdefault(file, []).append(role)
                names[role] = OWN + digest_values(taken)[:10]
            elif self._is_locked(role, shipped_name, taken):
                continue
            values[role] = taken
        changed = {
            role: dataclasses.replace(getattr(spec, role), recipe=name)
            for role, name in names.items()
            if name != getattr(spec, role).recipe
        }
        if not changed and not values:
            return spec
        complete = dataclasses.replace(spec, **changed, recipes=values)
        for file, roles in own.items():
            answer = self._answers[file]
            for problem in find_ignored_values(to_plain(complete), roles, file.name, answer):
                raise UsageError(f"{where}: {problem}")
        return complete

    def _locate(self, name: str, where: str) -> tuple[Path | None, str]:
        """The file of a recipe, and its name if mmseg ships it.

        The file is None for a locked recipe that the installed mmseg does not have.
        """
        configs = locked.find_configs_folder()
        relative = Path(name)
        if not relative.is_absolute() and ".." not in relative.parts:
            if configs is not None and (configs / name).is_file():
                return configs / name, relative.as_posix()
            if locked.is_locked(name):
                return None, name
        path = (self.folder / relative.expanduser()).resolve()
        if not path.is_file():
            raise UsageError(_describe_missing(name, path, configs, where))
        if configs is not None and path.is_relative_to(configs.resolve()):
            return path, path.relative_to(configs.resolve()).as_posix()
        return path, ""

    def _differs(self, name: str, file: Path | None) -> bool:
        """Whether the installed mmseg has another file of the name than the locked one."""
        if name not in self._differing:
            table = locked.read_table()["recipes"]
            is_known = name in table
            is_same = file is None or (
                is_known and locked.digest_files(file) == table[name]["files"]
            )
            self._differing[name] = not is_same
        return self._differing[name]

    def _take_values(self, role: str, file: Path, where: str) -> dict[str, Any]:
        """Take the values of a role from a file, which is resolved once."""
        if file not in self._answers:
            self._answers |= resolve_recipes([file], locked.find_configs_folder())
        answer = self._answers[file]
        if "error" in answer:
            raise UsageError(f"{where}: {ROLE_KEYS[role]}: {answer['error']}")
        values: dict[str, Any] | str = answer["values"][role]
        if isinstance(values, str):
            raise UsageError(describe_not_taken(role, file.name, values, where))
        return values

    def _is_locked(self, role: str, name: str, values: dict[str, Any]) -> bool:
        """Whether values are those of the locked recipe; notes the difference if not."""
        table = locked.read_table()
        entry = table["recipes"].get(name, {}).get(role)
        if not isinstance(entry, dict):
            text = f"mmseg {table['version']} has no such recipe. Its values enter the run id."
            self.notes[f"{role} {name}"] = f"{ROLE_KEYS[role]}: {name}: {text}"
            return False
        old = locked.read_sections(role, name)
        if old == values:
            return True
        before, after = dict(list_leaves(old, "")), dict(list_leaves(values, ""))
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        parts = [f"{key} {before.get(key)!r} -> {after.get(key)!r}" for key in keys[:SHOWN]]
        more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        self.notes[f"{role} {name}"] = (
            f"{ROLE_KEYS[role]}: {name}: the installed mmseg differs from {table['version']}: "
            f"{', '.join(parts)}{more}. Runs with these values are other runs."
        )
        return False


def _describe_missing(name: str, path: Path, configs: Path | None, where: str) -> str:
    if Path(name).is_absolute():
        return (
            f"{where}: {path}: no such file. Name a recipe file, or a recipe of mmseg, e.g. "
            "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py."
        )
    # There are hundreds of recipes: list those of the folder, or else the folders.
    known = [recipe for recipe in locked.read_table()["recipes"] if not recipe.startswith("_")]
    folder = name.rpartition("/")[0]
    in_folder = [recipe for recipe in known if recipe.rpartition("/")[0] == folder]
    folders = {f"{recipe.partition('/')[0]}/..." for recipe in known}
    text = describe_unknown_name("mmseg recipe", name, where, in_folder or folders)
    return f"{text} A recipe of your own is looked up at {path}."
