"""Bundles: one name for several matrices, and the errors of a bundle file."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.conftest import EXPERIMENTS
from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import list_matrices, load_matrix
from protoseg.config.matrix_bundles import expand_bundles, list_matrices_and_bundles
from protoseg.errors import UsageError

MATRICES, BUNDLES = list_matrices_and_bundles(ConfigFolders(EXPERIMENTS))


def test_the_bundles_contain_all_tables_and_all_questions() -> None:
    assert BUNDLES == ["paper", "paper_hierarchy", "questions"]
    assert sorted(expand_bundles(ConfigFolders(EXPERIMENTS), ["paper"])) == [
        m for m in MATRICES if m[:6] == "paper_" and not m.startswith("paper_hierarchy")
    ]
    hierarchies = [m for m in MATRICES if m.startswith("paper_hierarchy")]
    assert sorted(expand_bundles(ConfigFolders(EXPERIMENTS), ["paper_hierarchy"])) == hierarchies
    questions = [m for m in MATRICES if m.startswith("question_")]
    assert sorted(expand_bundles(ConfigFolders(EXPERIMENTS), ["questions"])) == questions
    assert len(expand_bundles(ConfigFolders(EXPERIMENTS), ["paper"])) == 12
    assert "paper" not in list_matrices(ConfigFolders(EXPERIMENTS))


def test_expanded_names_keep_their_order_without_duplicates() -> None:
    names = expand_bundles(
        ConfigFolders(EXPERIMENTS), ["paper_5a", "quickstart", "paper", "unknown"]
    )
    assert names[:3] == ["paper_5a", "quickstart", "paper_table1"]
    assert names.count("paper_5a") == 1
    assert names[-1] == "unknown"


def test_a_bundle_can_be_named_by_its_path(tmp_path: Path) -> None:
    file = EXPERIMENTS / "matrices" / "questions.yaml"
    assert expand_bundles(ConfigFolders(EXPERIMENTS), [str(file)]) == expand_bundles(
        ConfigFolders(EXPERIMENTS), ["questions"]
    )
    bundle = tmp_path / "mine.yml"
    bundle.write_text("matrices: [quickstart, paper_5a]")
    assert expand_bundles(ConfigFolders(EXPERIMENTS), [str(bundle)]) == ["quickstart", "paper_5a"]


def test_a_bundle_cannot_be_loaded_as_a_matrix(composer: Composer) -> None:
    with pytest.raises(UsageError, match=r"^paper is a bundle of several matrices; name one"):
        load_matrix(composer, "paper")
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        load_matrix(composer, "papr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matrices: []", "expected a list of names"),
        ("matrices: quickstart", "expected a list of names"),
        ("matrices: [quickstrat]", "Did you mean 'quickstart'"),
        ("matrices: [questions]", "'questions' is a bundle too; name its matrices instead."),
        ("matrices: [quickstart, quickstart]", "named twice"),
        ("matrices: [quickstart]\nseeds: [1]", "unknown key 'seeds'"),
        ("matrices: [", "not a readable YAML file"),
    ],
)
def test_an_invalid_bundle_gives_one_sentence(
    copied_experiments: Path, text: str, message: str
) -> None:
    (copied_experiments / "matrices" / "mine.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        expand_bundles(ConfigFolders(copied_experiments), ["mine"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
