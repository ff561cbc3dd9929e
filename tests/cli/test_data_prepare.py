"""``data prepare``: its words, what it prints, and what it says of a mistake."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cli.conftest import REPOSITORY, CommandLine


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """SceneParse150 with an image a split."""
    root = tmp_path / "downloads" / "ADEChallengeData2016"
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "images" / split / "a.jpg")
        Image.new("L", (40, 30), 7).save(root / "annotations" / split / "a.png")
    return root


def test_a_folder_without_permission_is_one_sentence(
    protoseg: CommandLine, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(published / "images")

    def is_dir(path: Path) -> bool:  # as Python 3.11 does for whoever is not root
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return os.path.isdir(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    answer = protoseg("data", "prepare", "ade20k", "--from", str(published))
    assert answer.status == 1
    assert answer.err.startswith(f"protoseg data: {closed}")
    assert "can not be read (no permission). Change its permissions" in answer.err


def test_a_name_in_any_letters(protoseg: CommandLine, tmp_path: Path) -> None:
    own = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", own)
    text = (own / "dataset" / "camvid.yaml").read_text()
    (own / "dataset" / "Größe.yaml").write_text(text.replace("name: camvid", "name: Größe"))
    answer = protoseg("data", "list", "--experiments", str(own), "--json")
    assert "Größe" in {row["name"] for row in answer.json}


def test_prepare_then_check(protoseg: CommandLine, published: Path) -> None:
    words = ("data", "prepare", "ade20k", "--from", str(published.parent))
    answer = protoseg(*words)
    root = protoseg.data / "ade20k"
    assert (answer.status, answer.err) == (0, "")
    assert f"ade20k: ready in {root}: 4 linked" in answer.out
    assert "training: 1 images; the whole data set has 20210" in answer.out
    again = protoseg(*words, "--json").json
    assert (again["already_there"], again["data_set"]) == (4, "ade20k")
    assert again["source"] == str(published)
    # The counts of the whole data set are known: a part of it is not taken for it ...
    answer = protoseg("data", "check", "ade20k")
    assert answer.status == 1
    assert f"{root / 'images/training'}: 1 images, expected 20210." in answer.err
    # ... unless that is said. ade20k_full_150 is the same data set.
    counts = "dataset.counts={training: 1, validation: 1}"
    answer = protoseg("data", "check", "ade20k_full_150", counts)
    assert (answer.status, answer.err) == (0, "")
    assert f"digest {again['digest']}" in answer.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare"], "data prepare: name one data set and its source: NAME --from DIR."),
        (["prepare", "ade20k"], "data prepare: name one data set and its source: NAME --from DIR."),
        (["prepare", "ade20", "--from", "."], "unknown data set 'ade20'. Did you mean 'ade20k'?"),
        (
            ["prepare", "camvid", "--from", "."],
            "'camvid' needs no preparing: it is used as it is in ",
        ),
        (["check", "ade20k", "--from", "."], "data check: --from goes with data prepare alone"),
    ],
)
def test_wrong_words(protoseg: CommandLine, words: list[str], sentence: str) -> None:
    answer = protoseg("data", *words)
    assert answer.status == 2
    assert sentence in answer.err
    assert answer.err.count("\n") == 1


def test_a_wrong_folder_and_one_in_place(protoseg: CommandLine, published: Path) -> None:
    answer = protoseg("data", "prepare", "cityscapes", "--from", str(published))
    assert answer.status == 1
    assert f"{published}: has no folder 'gtFine'. Expected are leftImg8bit/" in answer.err
    assert "https://www.cityscapes-dataset.com" in answer.err
    protoseg.data.mkdir()
    os.rename(published, protoseg.data / "ade20k")
    for source in (protoseg.data / "ade20k", protoseg.data):
        answer = protoseg("data", "prepare", "ade20k", "--from", str(source))
        assert answer.status == 1
        assert "The published files are never changed in place" in answer.err
    assert sorted(p.name for p in (protoseg.data / "ade20k").iterdir()) == [
        "annotations",
        "images",
    ]
