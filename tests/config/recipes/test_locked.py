"""The table of locked recipes agrees with the locked mmseg; another mmseg gives other runs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.overrides import Setting
from protoseg.config.recipes import locked
from protoseg.config.recipes.sections import SECTIONS
from protoseg.errors import ProtosegError, UsageError
from protoseg.training.builders import locked_recipes
from protoseg.training.builders.locked_recipes import (
    collect_table,
    compare_tables,
    find_folder,
    format_table,
    list_recipes,
)

SEGFORMER = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
ADVICE = "compare the two mmseg releases, then: python -m protoseg.training.builders.locked_recipes"
REPOSITORY = Path(__file__).parents[3]


def list_used_recipes(composer: Composer) -> list[str]:
    """The recipes that the options of experiments/ name."""
    names = {
        getattr(composer.spec([Setting(role, option)], "test"), role).recipe
        for role in SECTIONS
        for option in composer.options[role]
    }
    return sorted(names)


@pytest.mark.install
def test_the_used_recipes_have_the_locked_values(composer: Composer) -> None:
    names = list_used_recipes(composer)
    assert len(names) > 10
    assert compare_tables(locked.read_table(), collect_table(names)) == [], ADVICE


@pytest.mark.install
def test_all_recipe_files_are_the_locked_ones() -> None:
    folder, table = find_folder(), locked.read_table()["recipes"]
    digests = {name: locked.digest_files(folder / name) for name in list_recipes(folder)}
    assert digests == {name: entry["files"] for name, entry in table.items()}, ADVICE


@pytest.mark.slow
def test_all_recipes_have_the_locked_values() -> None:
    table = collect_table()
    assert compare_tables(locked.read_table(), table) == [], ADVICE
    assert format_table(table) == locked.TABLE.read_bytes()


def test_a_recipe_that_differs_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = locked.read_table()
    other = copy.deepcopy(table)
    other["recipes"][SEGFORMER]["files"] = "0" * 16
    other["recipes"][SEGFORMER]["schedule"] = "has no optim_wrapper"
    other["recipes"]["new/new.py"] = {}
    assert (
        compare_tables(table, other)
        == [
            "new/new.py: is not in the table",
            f"{SEGFORMER}: differs in files, schedule",
        ][::-1]
    )
    assert locked_recipes.main(["--wirte"]) == 2
    assert "usage: python -m protoseg.training.builders.locked_recipes" in capsys.readouterr().out


def test_an_edited_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    edited = tmp_path / "locked.json"
    edited.write_bytes(locked.TABLE.read_bytes().replace(b"0.999", b"0.998", 1))
    monkeypatch.setattr(locked, "TABLE", edited)
    locked.read_table.cache_clear()
    try:
        with pytest.raises(ProtosegError, match=r"locked\.json: was edited\. Restore it from git"):
            locked.read_table()
    finally:
        locked.read_table.cache_clear()


def test_a_locked_recipe_without_the_role_is_refused(composer: Composer) -> None:
    neck = "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py"
    with pytest.raises(UsageError, match=r"test: decoder\.recipe: sem_fpn\S+ has a neck \(FPN\)"):
        composer.spec([Setting("decoder.recipe", neck)], "test")
    assert composer.spec([Setting("backbone.recipe", neck)], "test").recipes == {}


PLAN = """
import json, sys
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.overrides import Setting
from pathlib import Path
composer = Composer(Path("experiments"))
chosen = [[], [Setting("decoder", "fcn")], [Setting("schedule.recipe", "mine/new.py")]]
ids = [run_id(composer.spec(settings, "test")) for settings in chosen]
assert not {"torch", "mmengine", "mmseg"} & set(sys.modules), "planning imports no mmseg"
print(json.dumps([ids, list(composer.recipes.notes.values())]))
"""


@pytest.fixture
def other_mmseg(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with an mmseg that has other recipes, and otherwise the same code."""
    real, other = find_folder(), tmp_path / "site" / "mmseg"
    (other / ".mim").mkdir(parents=True)
    for entry in real.parents[1].iterdir():
        if entry.name != ".mim":
            (other / entry.name).symlink_to(entry)
    configs = other / ".mim" / "configs"
    for name in ("_base_", "segformer", "fcn"):
        for file in (real / name).rglob("*.py"):
            copy = configs / file.relative_to(real)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    recipe = configs / SEGFORMER
    recipe.write_text(recipe.read_text().replace("betas=(0.9, 0.999)", "betas=(0.9, 0.99)"))
    fcn = configs / "fcn" / "fcn_r101-d8_4xb4-160k_ade20k-512x512.py"
    fcn.write_text(f"# A comment changes the file, but no value.\n{fcn.read_text()}")
    (configs / "mine").mkdir()
    (configs / "mine" / "new.py").write_text("_base_ = '../segformer/" + Path(SEGFORMER).name + "'")
    return other.parent


@pytest.mark.slow
def test_other_recipes_of_the_installed_mmseg_give_other_runs(
    other_mmseg: Path, composer: Composer
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{other_mmseg}:{REPOSITORY}"}
    answer = subprocess.run(
        [sys.executable, "-c", PLAN],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    (changed, with_fcn, new), notes = json.loads(answer.stdout)
    own_ids = [run_id(composer.spec(s, "test")) for s in ([], [Setting("decoder", "fcn")])]
    assert changed != own_ids[0]
    # The schedule is changed; the decoder's file has another digest and the same values.
    assert with_fcn != own_ids[1]
    assert new not in (changed, own_ids[0])
    assert any(
        f"schedule.recipe: {SEGFORMER}: the installed mmseg differs from" in note
        and "optim_wrapper.optimizer.betas [0.9, 0.999] -> [0.9, 0.99]" in note
        for note in notes
    ), notes
    assert any("mine/new.py" in note and "has no such recipe" in note for note in notes), notes
    assert not any("fcn" in note for note in notes), notes
    plan = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", "plan", "quickstart"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "the installed mmseg differs from" in plan.stderr, plan.stderr
    assert plan.returncode == 0
