"""A short, seeded form of the fuzz campaign (tests/campaigns/fuzz.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.fuzz import Fuzzer


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_random_command_lines_and_files_end_with_a_sentence(tmp_path: Path, seed: int) -> None:
    fuzzer = Fuzzer(tmp_path.resolve(), seed)
    fuzzer.run(60)
    assert not fuzzer.failures, "\n\n".join(fuzzer.failures)
