"""``protoseg data``: list, prepare and check."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cli.conftest import REPOSITORY, CommandLine


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published folders of SceneParse150 with one image per split."""
    root = tmp_path / "downloads" / "ADEChallengeData2016"
    for split in ("training", "validation"):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "images" / split / "a.jpg")
        Image.new("L", (40, 30), 7).save(root / "annotations" / split / "a.png")
    return root


# list


def test_list_shows_where_each_data_set_is(protoseg: CommandLine) -> None:
    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in protoseg("data", "list", "--json").json}

    assert states()["camvid"] == f"not in {protoseg.data}"
    assert states()["shapes"] == "generated when needed"
    (protoseg.data / "camvid").mkdir(parents=True)
    assert states()["camvid"] == f"in {protoseg.data / 'camvid'}"
    assert "camvid" in protoseg("data", "list").out


def test_the_name_of_a_data_set_may_have_any_letters(protoseg: CommandLine, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", experiments)
    text = (experiments / "dataset" / "camvid.yaml").read_text()
    changed = text.replace("name: camvid", "name: Größe")
    (experiments / "dataset" / "Größe.yaml").write_text(changed)
    result = protoseg("data", "list", "--experiments", str(experiments), "--json")
    assert "Größe" in {row["name"] for row in result.json}


# check


def test_check_reports_missing_and_wrong_folders(protoseg: CommandLine) -> None:
    root = protoseg.data / "camvid"
    result = protoseg("data", "check", "camvid")
    assert result.status == 1
    assert f"{root}: the folder of the data set 'camvid' is missing. Put the data" in result.err
    root.mkdir(parents=True)
    result = protoseg("data", "check", "camvid")
    assert result.status == 1
    assert "is missing" in result.err
    for folder in ("images", "annotations"):
        for split in ("train", "val", "test"):
            (root / folder / split).mkdir(parents=True)
    (root / "images" / "val" / "notes.txt").touch()
    result = protoseg("data", "check", "camvid")
    assert result.status == 1
    assert "no images ending in '.jpg'" in result.err
    problems = protoseg("data", "check", "camvid", "--json").json["problems"]
    assert len(problems) == 1
    assert "Traceback" not in result.err


def test_check_compares_counts_and_digest(protoseg: CommandLine) -> None:
    small = [
        "dataset.generator={name: shapes, version: 1, seed: 0, size: 32, train: 2, val: 1}",
        "dataset.counts={train: 2, val: 1}",
        "dataset.digest=unpinned",
    ]
    result = protoseg("data", "check", "shapes", *small)
    assert (result.status, result.err) == (0, "")
    assert "shapes: fine, in " in result.out
    (report,) = protoseg("data", "check", "shapes", *small, "--json").json["reports"]
    assert len(report["digest"]) == 64
    result = protoseg("data", "check", "shapes", *small[:2], f"dataset.digest={'0' * 64}")
    assert result.status == 1
    assert "0" * 64 in result.err


def test_check_says_which_splits_exist_and_which_are_used(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", experiments)
    (experiments / "dataset" / "mine.yaml").write_text(
        "defaults: [schema, _self_]\nname: mine\nclasses: [a, b]\ndigest: unpinned\n"
        "image_suffix: .png\nannotation_suffix: .png\n"
    )
    for split in ("train", "test"):
        for folder, mode in (("images", "RGB"), ("annotations", "L")):
            path = protoseg.data / "mine" / folder / split / "x.png"
            path.parent.mkdir(parents=True)
            Image.new(mode, (8, 8)).save(path)
    check = ("data", "check", "mine", "--experiments", str(experiments))
    result = protoseg(*check)
    assert result.status == 0
    assert re.search(r"train +training +1", result.out)
    assert re.search(r"test +1 +8×8", result.out)
    assert "evaluated on the split 'val', which is missing." in result.out
    assert "Choose one, e.g. evaluation.split=test. In a matrix, set it in 'base'." in result.out
    result = protoseg(*check, "evaluation.split=test")
    assert re.search(r"test +evaluation +1", result.out)
    assert "missing" not in result.out
    (report,) = protoseg(*check, "--json").json["reports"]
    assert report["used_for"] == {"train": "training", "val": "evaluation"}


# prepare


def test_a_prepared_data_set_passes_the_check(protoseg: CommandLine, published: Path) -> None:
    arguments = ("data", "prepare", "ade20k", "--from", str(published.parent))
    result = protoseg(*arguments)
    root = protoseg.data / "ade20k"
    assert (result.status, result.err) == (0, "")
    assert f"ade20k: ready in {root}: 4 linked" in result.out
    assert "training: 1 images; the whole data set has 20210" in result.out
    manifest = protoseg(*arguments, "--json").json
    assert (manifest["already_there"], manifest["data_set"]) == (4, "ade20k")
    assert manifest["source"] == str(published)
    # The check fails because images of the whole data set are missing ...
    result = protoseg("data", "check", "ade20k")
    assert result.status == 1
    assert f"{root / 'images/training'}: 1 images, expected 20210." in result.err
    # ... unless the expected counts are changed. ade20k_full_150 has the same files.
    counts = "dataset.counts={training: 1, validation: 1}"
    result = protoseg("data", "check", "ade20k_full_150", counts)
    assert (result.status, result.err) == (0, "")
    assert f"digest {manifest['digest']}" in result.out


def test_prepare_refuses_a_wrong_source(protoseg: CommandLine, published: Path) -> None:
    result = protoseg("data", "prepare", "cityscapes", "--from", str(published))
    assert result.status == 1
    assert f"{published}: has no folder 'gtFine'. Expected are leftImg8bit/" in result.err
    assert "https://www.cityscapes-dataset.com" in result.err


def test_prepare_refuses_a_source_that_contains_the_target(
    protoseg: CommandLine, published: Path
) -> None:
    protoseg.data.mkdir()
    target = protoseg.data / "ade20k"
    os.rename(published, target)
    for source in (target, protoseg.data):
        result = protoseg("data", "prepare", "ade20k", "--from", str(source))
        assert result.status == 1
        assert "The published files are never changed in place" in result.err
    assert sorted(path.name for path in target.iterdir()) == ["annotations", "images"]


def test_prepare_reports_a_source_without_read_permission(
    protoseg: CommandLine, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(published / "images")

    def is_dir(path: Path) -> bool:  # as in Python 3.11 for users other than root
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return os.path.isdir(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    result = protoseg("data", "prepare", "ade20k", "--from", str(published))
    assert result.status == 1
    assert result.err.startswith(f"protoseg data: {closed}")
    assert "cannot be read (no permission). Change its permissions" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare"], "data prepare: name one data set and its source: NAME --from DIR."),
        (["prepare", "ade20k"], "data prepare: name one data set and its source: NAME --from DIR."),
        (["prepare", "ade20", "--from", "."], "unknown data set 'ade20'. Did you mean 'ade20k'?"),
        (["prepare", "camvid", "--from", "."], "'camvid' needs no preparation. "),
        (
            ["check", "ade20k", "--from", "."],
            "data check: --from is an option of data prepare only",
        ),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    protoseg: CommandLine, arguments: list[str], message: str
) -> None:
    result = protoseg("data", *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_browse_writes_a_sheet_of_training_samples(protoseg: CommandLine, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "shapes.png"
    sizes = ("augmentation.scale=[32,32]", "augmentation.crop_size=[32,32]")
    call = ("data", "browse", "shapes", *sizes, "--count", "3", "--into", str(sheet))
    result = protoseg(*call)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"3 samples of shapes, train: {sheet}\n"
    first = sheet.read_bytes()
    data = protoseg(*call, "--seed", "1", "--split", "val", "--json").json
    assert data == {"samples": 3, "files": [str(sheet)]}
    assert sheet.read_bytes() != first
    unknown = protoseg("data", "browse", "shapes", "--split", "tset", "--into", str(sheet))
    assert unknown.status == 2
    assert "unknown split 'tset'. Known: train, val." in unknown.err
    assert len(unknown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("browse",), "name one data set and a file: data browse NAME --into FILE.html"),
        (("browse", "shapes"), "name one data set and a file"),
        (("browse", "shapes", "--into", "x.jpg"), "unknown suffix '.jpg'. Allowed: .html, .png"),
        (("browse", "shaps", "--into", "x.png"), "unknown data set 'shaps'. Did you mean 'shapes'"),
        (("check", "shapes", "--seed", "0"), "--seed is an option of data browse only. Remove it."),
    ],
)
def test_wrong_arguments_of_browse(
    protoseg: CommandLine, arguments: tuple[str, ...], message: str
) -> None:
    result = protoseg("data", *arguments)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
