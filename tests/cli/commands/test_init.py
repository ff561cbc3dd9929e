"""``protoseg init``, and projects: one's own files before the packaged ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine
from protoseg import paths
from protoseg.cli.command_line import main
from protoseg.paths import PROJECT_FILE
from protoseg.runs.folder import RunFolder
from protoseg.training.provenance.environment import record_attempt_code
from protoseg.training.provenance.source_code import read_project_state


@pytest.fixture
def project(tmp_path: Path, protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line in a sub-folder of a new project, without options for folders."""
    folder = tmp_path / "my project"
    assert main(["init", str(folder)]) == 0
    (folder / "notes").mkdir()
    monkeypatch.chdir(folder / "notes")
    protoseg.paths = []
    return protoseg


def test_a_new_project_has_a_matrix_that_can_be_planned(
    project: CommandLine, tmp_path: Path
) -> None:
    result = project("plan", "first", "--json")
    assert result.status == 0, result.err
    assert len(result.json["runs"]) == 4
    folder = tmp_path / "my project"
    assert (folder / ".gitignore").read_text() == "/runs/\n/data/\n"
    assert (folder / "README.md").read_text().startswith("# my project\n")
    folders = paths.find_paths()
    assert folders.runs == folder / "runs"
    assert folders.weights == folder / "data" / "weights"
    assert folders.other_experiments == (REPOSITORY / "experiments",)


def test_all_files_of_a_new_project_are_valid(project: CommandLine) -> None:
    assert project("config", "show", "dataset/my_data").status == 0
    assert project("plan", "first", "cluster=my_cluster", "--sbatch").status == 0
    listed = project("config", "list", "--json").json
    own = {
        g: [f["name"] for f in files if "my project" in f["file"]] for g, files in listed.items()
    }
    assert {group: names for group, names in own.items() if names} == {
        "matrices": ["first"],
        "dataset": ["my_data"],
        "clusters": ["my_cluster"],
    }


def test_the_ids_of_runs_depend_on_values_alone(project: CommandLine) -> None:
    in_project = project("plan", "quickstart", "--json").json["runs"]
    project.paths = ["--experiments", str(REPOSITORY / "experiments")]
    outside = project("plan", "quickstart", "--json").json["runs"]
    assert [run["run_id"] for run in in_project] == [run["run_id"] for run in outside]


def test_plan_names_the_packaged_files_that_a_project_replaces(
    project: CommandLine, tmp_path: Path
) -> None:
    name = Path("experiments", "schedule", "shapes_550.yaml")
    target = tmp_path / "my project" / name
    target.parent.mkdir()
    target.write_text((REPOSITORY / name).read_text().replace("550", "551"))
    result = project("plan", "quickstart")
    assert f"{target}: replaces the file of this name that comes with protoseg." in result.err
    listed = project("config", "list", "schedule", "--json").json["schedule"]
    (entry,) = [entry for entry in listed if entry["name"] == "shapes_550"]
    assert entry["replaces"] == str(REPOSITORY / name)
    assert "shapes_550 (replaced)" in project("config", "list", "schedule").out


def test_folders_of_the_project_file_are_used(project: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "my project" / PROJECT_FILE).write_text(
        f"version: 1\nruns: {tmp_path / 'scratch'}\nweights: ../weights\nexperiments: configs\n"
    )
    folders = paths.find_paths()
    assert folders.runs == tmp_path / "scratch"
    assert folders.weights == tmp_path / "my project" / ".." / "weights"
    assert folders.experiments == tmp_path / "my project" / "configs"
    assert project("plan", "quickstart").status == 0
    assert paths.find_paths(experiments=str(tmp_path)).other_experiments == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 2\n", "version: found 2. This protoseg"),
        ("runs: x\n", "version: found None"),
        ("version: 1\nrun: x\n", "Did you mean 'runs'?"),
        ("version: 1\nruns: 3\n", "runs: expected a folder, found 3."),
        ("version: 1\nruns: [\n", "not a readable YAML file"),
        ("- a\n", "expected keys and values"),
    ],
)
def test_a_wrong_project_file_is_refused(
    project: CommandLine, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "my project" / PROJECT_FILE
    path.write_text(text)
    result = project("plan", "first")
    assert result.status == 2
    assert f"{path}: " in result.err
    assert message in result.err


def test_a_folder_that_cannot_become_a_project_is_refused(
    project: CommandLine, tmp_path: Path
) -> None:
    inner = tmp_path / "my project" / "inner"
    assert f"{inner}: is inside of the project" in project("init", str(inner)).err
    assert "is a project already" in project("init", str(inner.parent)).err
    in_checkout = REPOSITORY / "docs" / "project"
    assert "is inside of the checkout" in project("init", str(in_checkout)).err
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    assert "is not empty" in project("init", str(full)).err
    result = project("init", str(full / "file"))
    assert (result.status, "is not empty" in result.err) == (2, True)
    assert [path.name for path in full.iterdir()] == ["file"]
    result = project("init", str(full / "file" / "below"))
    assert result.status != 0
    assert result.err.count("\n") == 1


def test_a_link_to_a_project_is_the_project(
    project: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "my project")
    monkeypatch.setenv("PWD", str(link))
    options = ("--experiments", str(link / "experiments"), "--clusters", "../slurm")
    assert project("plan", "first", "cluster=one_h200", *options).status == 0


def test_variables_of_the_project_file_are_replaced(
    project: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my project" / PROJECT_FILE).write_text("version: 1\nruns: $SCRATCH_OF_TEST/runs\n")
    assert "runs: '$SCRATCH_OF_TEST/runs' has a variable" in project("plan", "first").err
    monkeypatch.setenv("SCRATCH_OF_TEST", str(tmp_path))
    assert paths.find_paths().runs == tmp_path / "runs"


def test_without_a_matrix_a_project_means_its_own(project: CommandLine, tmp_path: Path) -> None:
    assert len(project("plan", "--json").json["runs"]) == 4
    (tmp_path / "my project" / "experiments" / "matrices" / "first.yaml").unlink()
    assert len(project("plan", "--json").json["runs"]) > 100


def test_a_packaged_data_set_is_not_replaced_in_silence(
    project: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "camvid").mkdir()
    result = project("data", "init", str(tmp_path / "camvid"))
    assert (result.status, "camvid.yaml: exists already" in result.err) == (2, True)


def test_the_state_of_a_project_covers_its_folders(
    project: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my project"
    (root / "experiments").rename(root / "configs")
    (root / PROJECT_FILE).write_text("version: 1\nexperiments: configs\n")
    assert read_project_state(root) is None
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init",), ("add", "--all"), (*author, "commit", "--message=First")):
        subprocess.run(
            ["git", *command, *["--quiet"] * (command[0] != "add")], cwd=root, check=True
        )
    monkeypatch.chdir(tmp_path)  # as a batch job, whose folder is elsewhere
    state = read_project_state(root)
    assert state is not None
    assert (len(state.commit or ""), state.dirty) == (40, False)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    recorded = record_attempt_code(folder, project=root)["project"]
    assert recorded == {"commit": state.commit, "dirty": False}
    (root / "configs" / "matrices" / "first.yaml").write_text("title: Changed\n")
    state = read_project_state(root)
    assert state is not None
    assert state.dirty is True
