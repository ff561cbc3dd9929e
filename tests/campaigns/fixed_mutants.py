"""A short mutation test: ten fixed changes of the source must fail tests, and one must not.

    python tests/campaigns/fixed_mutants.py

It checks that the tests notice these changes, and that `campaigns.mutation` still tells killed
mutants from survivors. Unlike `make mutation` it needs neither cosmic-ray nor coverage.

Exit status: 0, or 1 if an outcome is not the expected one.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from waiting import DEADLINE

from campaigns.mutation import PRELOADED, ROOT, Copy


@dataclass(frozen=True)
class FixedMutant:
    """A change of one line, and a test that it fails.

    Attributes:
        before: text that occurs once in the file.
        after: its replacement.
        test: node id.
    """

    file: str
    before: str
    after: str
    test: str
    expected: str = "killed"


CORE, CONFIG, RUNS = "tests/core", "tests/config", "tests/runs"
TRAINING, STATISTICS = "tests/training", "tests/report/statistics"
MUTANTS = (
    FixedMutant(
        "protoseg/core/sinkhorn.py",
        "sums = pixels.sum_sorted_rows(kernel, columns)",
        "sums = pixels.sum_sorted_rows(kernel, None)",
        f"{CORE}/test_sinkhorn.py::test_after_many_steps_prototypes_have_equal_sums",
    ),
    FixedMutant(
        "protoseg/core/prototypes.py",
        "means.lerp(old, self.momentum)",
        "means.lerp(old, 1 - self.momentum)",
        f"{CORE}/test_prototypes.py::test_with_momentum_1_prototypes_do_not_move",
    ),
    FixedMutant(
        "protoseg/config/identity.py",
        "DIGITS = 10",
        "DIGITS = 11",
        f"{CONFIG}/test_identity.py::test_a_run_id_names_data_set_network_method_and_seed",
    ),
    FixedMutant(
        "protoseg/config/fields.py",
        'f.metadata.get("added") and _has_default',
        'f.metadata.get("added") or _has_default',
        f"{CONFIG}/test_identity.py::"
        "test_an_added_field_does_not_change_the_identity_of_older_specs",
    ),
    FixedMutant(
        "protoseg/training/checkpoint.py",
        "path.name > newest.name or not",
        "path.name > newest.name and not",
        f"{TRAINING}/test_checkpoint.py::test_a_save_removes_files_of_killed_writers",
    ),
    FixedMutant(
        "protoseg/training/loop.py",
        "        if start:",
        "        if not start:",
        f"{TRAINING}/test_loop.py::test_only_the_first_attempt_keeps_the_draw_of_the_loader[4]",
    ),
    FixedMutant(
        "protoseg/runs/retry.py",
        "in_a_row <= limit",
        "in_a_row < limit",
        f"{RUNS}/test_folder.py::test_a_success_without_a_record_is_lost",
        expected="survived",  # one attempt, far from the limit; the next test reaches it
    ),
    FixedMutant(
        "protoseg/runs/retry.py",
        "in_a_row <= limit",
        "in_a_row < limit",
        f"{RUNS}/test_retry.py::test_the_run_has_failed_after_more_attempts_than_the_limit[lost]",
    ),
    FixedMutant(
        "protoseg/runs/retry.py",
        "reached > attempt.began_at",
        "reached >= attempt.began_at",
        f"{RUNS}/test_retry.py::test_progress_that_was_lost_does_not_restart_the_count",
    ),
    FixedMutant(
        "protoseg/report/statistics/significance.py",
        "(len(values) - 1))",
        "len(values))",
        f"{STATISTICS}/test_significance.py::test_only_shared_seeds_are_paired",
    ),
    FixedMutant(
        "protoseg/report/statistics/bootstrap.py",
        "np.maximum(present.sum(-1), 1)",
        "np.maximum(present.sum(-1), 2)",
        f"{STATISTICS}/test_bootstrap.py::test_classes_without_pixels_are_left_out_of_the_mean",
    ),
)


def change_source(mutant: FixedMutant) -> str:
    """The changed text of the mutant's file.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    if source.count(mutant.before) != 1:
        raise ValueError(
            f"{mutant.file}: {mutant.before!r} occurs {source.count(mutant.before)} times, "
            "expected 1. Update MUTANTS."
        )
    return source.replace(mutant.before, mutant.after)


def main() -> int:
    """Test the mutants, print a line for each, and return the exit status."""
    sources = [change_source(mutant) for mutant in MUTANTS]
    for name in PRELOADED:
        importlib.import_module(name)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="mut-") as folder:
        copy = Copy(Path(folder) / "checkout")
        tests = [mutant.test for mutant in MUTANTS]
        if missing := set(tests) - copy.passing(tests).keys():
            print(f"these tests do not pass without a mutant: {', '.join(sorted(missing))}")
            return 1
        for mutant, source in zip(MUTANTS, sources, strict=True):
            outcome = copy.test_source(mutant.file, source, [mutant.test], DEADLINE)
            is_expected = outcome == mutant.expected
            failures += not is_expected
            note = "" if is_expected else f", expected {mutant.expected}"
            print(f"{mutant.file}: {mutant.after.strip()}: {outcome}{note}", flush=True)
    print(f"{len(MUTANTS)} mutants, {failures} with another outcome than expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
