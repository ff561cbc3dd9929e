"""The types of arguments, and the options that verbs share."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.cli.arguments import (
    FOLDERS,
    add_folder_arguments,
    add_matrix_operands,
    add_output_folder,
    add_training_options,
    count,
    iterations,
    positive,
    seconds,
)


def test_numbers_are_parsed() -> None:
    assert (count("0"), positive("1"), iterations("10")) == (0, 1, 10)
    assert seconds("0.5") == 0.5


@pytest.mark.parametrize("text", ["-1", "1.5", "two", "", "²"])
def test_a_count_is_a_whole_number_from_0(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 0"):
        count(text)


@pytest.mark.parametrize("text", ["0", "-1"])
def test_a_positive_number_is_at_least_1(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1"):
        positive(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "soon"])
def test_seconds_are_finite_and_not_negative(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number of seconds from 0"):
        seconds(text)


def test_a_matrix_after_the_option_time_is_reported() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="put matrices before --time"):
        iterations("quickstart")


def test_verbs_with_operands_accept_any_number() -> None:
    parser = argparse.ArgumentParser()
    add_matrix_operands(parser)
    parsed = parser.parse_args(["quickstart", "seed=0"])
    assert parsed.operands == ["quickstart", "seed=0"]
    assert parsed.any_operands


def test_training_options_have_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_training_options(parser)
    parsed = parser.parse_args([])
    assert (parsed.threads, parsed.workers, parsed.checkpoint_seconds) == (None, 0, 60.0)
    assert not parsed.retry_failed


def test_the_help_shows_the_default_of_each_folder() -> None:
    parser = argparse.ArgumentParser()
    add_folder_arguments(parser)
    add_output_folder(parser, "RESULTS/tables")
    text = " ".join(parser.format_help().split())
    for option, _, default in FOLDERS:
        assert f"(default: $PROTOSEG_{option.upper()}, or {default})" in text
    assert "(default: RESULTS/tables)" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("protoseg ver", {"verify"}),
        ("protoseg plan camvid_f", {"camvid_fair"}),
        ("protoseg plan dataset=ccp_1", {"dataset=ccp_10"}),
        ("protoseg sweep quickstart cluster=one", {"cluster=one_h200"}),
        ("protoseg plan quickstart --exp", {"--experiments"}),
    ],
)
def test_a_shell_completes_names(tmp_path: Path, line: str, expected: set[str]) -> None:
    answer = tmp_path / "answer"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": "",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run(
        [sys.executable, "-m", "protoseg.cli"],
        env=os.environ | variables,
        cwd=Path(__file__).parents[2],
        timeout=DEADLINE,
    )
    assert {word.strip() for word in answer.read_text().split("\v")} == expected
