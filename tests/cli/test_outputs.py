"""The paths of output files."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.cli.outputs import choose_output_folder, display_path


def test_a_path_in_the_working_directory_is_shown_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert display_path(tmp_path / "inside" / "tables" / "a.md") == "tables/a.md"
    assert display_path(tmp_path / "outside.md") == str(tmp_path / "outside.md")


def test_each_list_of_overrides_has_its_own_subfolder() -> None:
    folder = Path("tables")
    assert choose_output_folder(folder, []) == folder
    first = choose_output_folder(folder, ["seed=0"])
    assert first == choose_output_folder(folder, ["seed=0"])
    assert first.parent == folder
    assert first != choose_output_folder(folder, ["seed=1"])
