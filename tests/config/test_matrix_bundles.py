"""Bundles: one name for several matrices, and what a file of one can get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.conftest import EXPERIMENTS
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix, matrix_names
from protoseg.config.matrix_bundles import expanded, sorted_names
from protoseg.errors import UsageError

MATRICES, BUNDLES = sorted_names(EXPERIMENTS)


def test_the_paper_is_every_table_and_the_questions_are_every_question() -> None:
    assert BUNDLES == ["paper", "questions"]
    assert sorted(expanded(EXPERIMENTS, ["paper"])) == [m for m in MATRICES if m[:6] == "paper_"]
    questions = [m for m in MATRICES if m.startswith("question_")]
    assert sorted(expanded(EXPERIMENTS, ["questions"])) == questions
    assert len(expanded(EXPERIMENTS, ["paper"])) == 12
    assert "paper" not in matrix_names(EXPERIMENTS)


def test_names_keep_their_order_and_come_once() -> None:
    found = expanded(EXPERIMENTS, ["paper_5a", "quickstart", "paper", "unknown"])
    assert found[:3] == ["paper_5a", "quickstart", "paper_table1"]
    assert found.count("paper_5a") == 1
    assert found[-1] == "unknown"


def test_a_bundle_can_be_named_by_its_file(tmp_path: Path) -> None:
    file = EXPERIMENTS / "matrices" / "questions.yaml"
    assert expanded(EXPERIMENTS, [str(file)]) == expanded(EXPERIMENTS, ["questions"])
    mine = tmp_path / "mine.yml"
    mine.write_text("matrices: [quickstart, paper_5a]")
    assert expanded(EXPERIMENTS, [str(mine)]) == ["quickstart", "paper_5a"]


def test_a_bundle_is_no_matrix(composer: Composer) -> None:
    with pytest.raises(UsageError, match="paper: stands for several matrices, and one is meant"):
        load_matrix(composer, "paper")
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        load_matrix(composer, "papr")


@pytest.mark.parametrize(
    ("text", "words"),
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
def test_mistakes_are_one_sentence(own: Path, text: str, words: str) -> None:
    (own / "matrices" / "mine.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        expanded(own, ["mine"])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
