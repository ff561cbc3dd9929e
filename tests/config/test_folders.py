"""Several folders of config files: which file is used, and what Hydra makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.origins import find_origins
from protoseg.config.identity import run_id
from protoseg.config.load_matrix import list_matrices, load_matrix
from protoseg.config.overrides import Setting
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import list_profiles, load_profile

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A project's folder of experiments, without any of the packaged files."""
    folder = tmp_path / 'it\'s "own", 100%'
    (folder / "dataset").mkdir(parents=True)
    (folder / "matrices").mkdir()
    return folder


def write_camvid(own: Path, changed: str) -> Path:
    text = (EXPERIMENTS / "dataset" / "camvid.yaml").read_text()
    path = own / "dataset" / "camvid.yaml"
    path.write_text(text.replace("ignore_index: 11", changed))
    return path


def test_a_matrix_has_the_same_runs_with_packaged_files_behind_it(own: Path) -> None:
    (own / "matrices" / "mine.yaml").write_text(
        (EXPERIMENTS / "matrices" / "camvid_methods.yaml").read_text()
    )
    composer = Composer(own, EXPERIMENTS)
    copied = load_matrix(composer, "mine")
    original = load_matrix(Composer(EXPERIMENTS), "camvid_methods")
    assert [run.run_id for run in copied.runs] == [run.run_id for run in original.runs]
    assert set(list_matrices(composer.folders)) == {
        "mine",
        *list_matrices(ConfigFolders(EXPERIMENTS)),
    }


@pytest.mark.parametrize("reader", ["fast", "hydra"])
def test_an_own_file_replaces_the_packaged_one(own: Path, reader: str) -> None:
    # With a package header, only Hydra can compose the file.
    changed = "ignore_index: 99" if reader == "fast" else "ignore_index: 99\n# @package dataset"
    path = write_camvid(own, changed)
    composer = Composer(own, EXPERIMENTS)
    assert composer.spec([Setting("dataset", "camvid")], "test").dataset.ignore_index == 99
    assert composer.spec([Setting("dataset", "shapes_64")], "test").dataset.name == "shapes_64"
    packaged = EXPERIMENTS / "dataset" / "camvid.yaml"
    assert composer.folders.list_replaced() == [(path, packaged)]


def test_an_own_run_file_replaces_the_defaults(own: Path) -> None:
    text = (EXPERIMENTS / "run.yaml").read_text()
    (own / "run.yaml").write_text(text.replace("dataset: shapes", "dataset: camvid"))
    spec = Composer(own, EXPERIMENTS).spec([], "test")
    assert spec.dataset.name == "camvid"
    settings = [Setting("dataset", "camvid")]
    assert run_id(spec) == run_id(Composer(EXPERIMENTS).spec(settings, "test"))


def test_own_files_can_name_packaged_ones_in_their_defaults(own: Path) -> None:
    (own / "dataset" / "void_0.yaml").write_text(
        "defaults: [schema, camvid, _self_]\nignore_index: 0\n"
    )
    spec = Composer(own, EXPERIMENTS).spec([Setting("dataset", "void_0")], "test")
    assert (spec.dataset.name, spec.dataset.ignore_index) == ("camvid", 0)
    origins = find_origins(ConfigFolders(own, (EXPERIMENTS,)), "dataset", "void_0")
    assert origins["ignore_index"] == own / "dataset" / "void_0.yaml"
    assert origins["classes"] == EXPERIMENTS / "dataset" / "camvid.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [schema, camvit, _self_]\nname: x\n", "Did you mean 'camvid'?"),
        ("defaults: [schema, _self_]\nname: x\nignore_indx: 3\n", "ignore_index"),
    ],
)
def test_a_problem_of_an_own_file_names_it(own: Path, text: str, message: str) -> None:
    path = own / "dataset" / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        Composer(own, EXPERIMENTS).spec([Setting("dataset", "mine")], "test")
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_profiles_of_a_project_come_before_the_packaged_ones(tmp_path: Path) -> None:
    packaged = ROOT / "slurm"
    (tmp_path / "mine.yaml").write_text("defaults: [one_h200, _self_]\ncpus: 3\n")
    folders = ConfigFolders(tmp_path, (packaged,))
    assert set(list_profiles(folders)) == {"mine", *list_profiles(ConfigFolders(packaged))}
    profile = load_profile(folders, "mine")
    assert (profile.cpus, profile.gpu_type) == (3, "h200")
