"""The short mutation test, and the arithmetic of the full one (`make mutation`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from campaigns import mutation
from campaigns.fixed_mutants import MUTANTS, FixedMutant, change_source

SCRIPT = Path(__file__).with_name("fixed_mutants.py")


@pytest.mark.slow
def test_fixed_mutants_are_killed_and_a_test_that_does_not_notice_one_passes() -> None:
    # Lines that only a mutant runs must not count as covered.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    process = subprocess.run(
        [sys.executable, SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE * len(MUTANTS),
    )
    out, err = process.stdout, process.stderr
    assert process.returncode == 0, out + err
    assert out.splitlines()[-1] == f"{len(MUTANTS)} mutants, 0 with another outcome than expected"
    assert out.count(": killed\n") == len(MUTANTS) - 1
    assert out.count(": survived\n") == 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.after.strip())
def test_a_fixed_mutant_changes_a_line_that_exists(mutant: FixedMutant) -> None:
    compile(change_source(mutant), mutant.file, "exec")
    assert mutation.ROOT.joinpath(mutant.test.partition("::")[0]).exists()


def test_only_the_fastest_tests_that_fit_into_the_time_are_chosen() -> None:
    durations = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 5.0}
    assert mutation.fastest_tests({"a", "b", "c", "unknown"}, durations, 3.0) == ["b", "c"]
    assert mutation.fastest_tests({"d"}, durations, 3.0) == []


def test_code_that_runs_at_import_is_tested_by_all_tests_of_its_file() -> None:
    by_line = {"a.py": {3: {"one"}, 4: {"two"}, 1: set()}}

    def tests_of(line: int, file: str = "a.py") -> set[str]:
        return mutation.tests_of(mutation.Mutant("core", file, line, "operator", 0), by_line)

    assert tests_of(3) == {"one"}
    assert tests_of(1) == tests_of(9) == {"one", "two"}
    assert tests_of(3, "b.py") == set()
