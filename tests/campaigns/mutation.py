"""Mutation testing: changes one operator or number of the source and runs the tests of its line.

    make mutation ARGS="--sample 300 --seed 0 --report results/campaigns/mutation.md"
    make mutation ARGS="--sample 100 --by-file"

Needs cosmic-ray (requirements-mutation.lock), which makes the mutants, and the coverage of each
test, which ``--measure`` records. Each mutant is tested in a copy of the checkout: the tests that
run its line, fastest first, for at most ``--seconds``. For code that runs at import, these are the
tests that run any line of its file. Tests that fail without a mutant are left out. The tests run in
a fork of this process, which has imported torch and mmseg but not protoseg.

``--by-file`` needs no coverage: each mutant is tested by the first-tier tests of its group's files.

Outcomes: ``killed`` (a test failed), ``timeout`` (the tests did not end; counts as killed),
``survived`` (all tests passed), ``uncovered`` (no test runs the line).

Exit status: 0, or 1 if fewer mutants were killed than ``--at-least`` percent.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from durations import key_of_node, key_of_test  # noqa: E402

COVERAGE = ROOT / ".coverage" / "by_test"
GROUPS = {
    "core": ("protoseg/core/*.py",),
    "identity": ("protoseg/config/identity.py", "protoseg/config/fields.py"),
    "retry": (
        *("protoseg/runs/retry.py", "protoseg/runs/states.py", "protoseg/runs/attempts.py"),
        "protoseg/runs/folder.py",
    ),
    "resume": (
        *("protoseg/training/checkpoint.py", "protoseg/training/loop.py"),
        *("protoseg/training/rng.py", "protoseg/runs/claim.py"),
    ),
    "statistics": (
        "protoseg/report/statistics/significance.py",
        "protoseg/report/statistics/bootstrap.py",
    ),
}
"""Group -> its files. The sample has the same number of mutants of each group."""
TESTS = {
    "core": ("tests/core",),
    "identity": (
        *("tests/config/test_identity.py", "tests/config/test_compose.py"),
        *("tests/config/test_plugins.py", "tests/golden/test_identities.py"),
    ),
    "retry": (
        "tests/runs/test_retry.py",
        "tests/runs/test_folder.py",
        "tests/planning/test_plan.py",
    ),
    "resume": (
        *("tests/training/test_checkpoint.py", "tests/training/test_checkpoint_writer.py"),
        *("tests/training/test_loop.py", "tests/runs/test_claim.py"),
        "tests/training/test_worker.py",
    ),
    "statistics": ("tests/report/statistics", "tests/report/test_comparison.py"),
}
"""Group -> the tests of its files, for ``--by-file``."""
PRELOADED = (
    *("torch", "numpy", "mmengine", "mmcv", "mmseg.models", "pandas", "scipy.stats"),
    *("pytest", "rich"),
)
COPIED = ("protoseg", "tests", "experiments", "benchmarks", "slurm", "results", "docs")
LEFT_OUT = (
    *("VariableReplacer", "VariableInserter"),  # need the name of a variable
    *("_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq"),  # often equivalent, e.g. for None
)
"""Ends of the names of operators that are not used."""
BROKEN = 70
"""Exit status of a fork in which pytest did not start."""
NOTHING_RAN = (4, 5)
"""Exit statuses of pytest: wrong arguments, for example an unknown test, and no test at all."""
SHARE_OF_TESTS = 0.5
"""Share of ``--seconds`` for the tests of a mutant, timed without it. A mutant may be slower."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        occurrence: index of the change among all changes of this operator in the file.
    """

    group: str
    file: str
    line: int
    operator: str
    occurrence: int


@dataclass(frozen=True)
class Result:
    """The outcome of the tests of a mutant."""

    mutant: Mutant
    outcome: str
    seconds: float
    tests: int


def measure(arguments: Sequence[str]) -> None:
    """Run the tests and record the coverage of each one; the hook is in tests/conftest.py."""
    shutil.rmtree(COVERAGE, ignore_errors=True)
    COVERAGE.mkdir(parents=True)
    environment = {**os.environ, "PROTOSEG_COVERAGE_BY_TEST": "1"}
    data = f"--data-file={COVERAGE / 'data'}"
    python = [sys.executable, "-m", "coverage"]
    run = [*python, "run", data, "-m", "pytest", "-n", "2", "--dist", "loadgroup"]
    report = f"--junitxml={COVERAGE / 'durations.xml'}"
    subprocess.run([*run, report, *arguments], cwd=ROOT, env=environment, check=False)
    subprocess.run([*python, "combine", "--quiet", data, str(COVERAGE)], cwd=ROOT, check=False)


def tests_by_line() -> dict[str, dict[int, set[str]]]:
    """File -> line -> node ids of the tests that run it."""
    from coverage import CoverageData

    data = CoverageData(str(COVERAGE / "data"))
    data.read()
    tests: dict[str, dict[int, set[str]]] = {}
    for name in data.measured_files():
        path = Path(name)
        if not path.is_relative_to(ROOT):
            continue
        lines = data.contexts_by_lineno(name)
        tests[str(path.relative_to(ROOT))] = {
            line: {context for context in contexts if context} for line, contexts in lines.items()
        }
    return tests


def collect_tests(folder: Path, paths: Sequence[str]) -> set[str]:
    """The node ids of the first-tier tests in some files and folders."""
    options = ["-n", "0", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {line for line in process.stdout.splitlines() if line.startswith("tests/")}


def mutants_of(group: str, file: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / file).read_text(encoding="utf-8")
    tree = get_ast(source)
    annotations = annotation_ranges(source)
    for name in operator_names():
        if name.endswith(LEFT_OUT):
            continue
        operator = get_operator(name)()
        occurrence = 0
        for node in _nodes(tree):
            for start, _ in operator.mutation_positions(node):
                if not any(first <= start < last for first, last in annotations):
                    yield Mutant(group, file, start[0], name, occurrence)
                occurrence += 1


def annotation_ranges(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last (line, column) of each type annotation, where a change has no effect."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            nodes.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes.append(node.returns)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in nodes
        if node is not None
    ]


def _nodes(node: Any) -> Iterator[Any]:
    """A node and its descendants, in the order of cosmic-ray's indices."""
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def sample(count: int, seed: int) -> list[Mutant]:
    """A random sample of mutants: the same number of each group, at most one per line."""
    generator = random.Random(seed)
    sampled: list[Mutant] = []
    for group, patterns in GROUPS.items():
        files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
        names = [str(path.relative_to(ROOT)) for path in files]
        mutants = [mutant for name in names for mutant in mutants_of(group, name)]
        generator.shuffle(mutants)
        by_line = {(mutant.file, mutant.line): mutant for mutant in reversed(mutants)}
        of_group = [m for m in mutants if by_line[m.file, m.line] is m]
        sampled += [m for m in of_group if mutate(m) is not None][: count // len(GROUPS)]
    return sampled


def mutate(mutant: Mutant) -> str | None:
    """The changed source of the mutant's file; None if it does not compile or has not changed."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None or changed == source:
        return None
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError:
        return None
    return str(changed)


class Copy:
    """A copy of the checkout in which mutants are tested one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, folder)

    def passing(self, tests: Sequence[str]) -> dict[str, float]:
        """The tests that pass without a mutant, and their durations in seconds.

        Raises:
            RuntimeError: pytest did not run.
        """
        results = self.folder / "baseline.xml"
        status = run_forked(self.folder, tests, float("inf"), f"--junitxml={results}")
        if status == BROKEN or not results.exists():
            raise RuntimeError((self.folder / "pytest.txt").read_text(encoding="utf-8"))
        durations = passed_durations_of(results)
        return {
            test: durations[key_of_node(test)] for test in tests if key_of_node(test) in durations
        }

    def test(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> Result:
        """Test one mutant; the file is restored afterwards."""
        source = mutate(mutant)
        assert source is not None, "the sample has an invalid mutant"
        if not tests:
            return Result(mutant, "uncovered", 0.0, 0)
        start = time.monotonic()
        outcome = self.test_source(mutant.file, source, tests, seconds)
        return Result(mutant, outcome, time.monotonic() - start, len(tests))

    def test_source(self, file: str, source: str, tests: Sequence[str], seconds: float) -> str:
        """Test a changed file, which is restored afterwards.

        Returns:
            ``killed``, ``timeout`` or ``survived``.

        Raises:
            RuntimeError: pytest did not run.
        """
        path = self.folder / file
        original = path.read_text(encoding="utf-8")
        try:
            path.write_text(source, encoding="utf-8")
            status = run_forked(self.folder, tests, seconds, "-x")
        finally:
            path.write_text(original, encoding="utf-8")
        if status in (BROKEN, *NOTHING_RAN):
            raise RuntimeError((self.folder / "pytest.txt").read_text(encoding="utf-8"))
        return {0: "survived", None: "timeout"}.get(status, "killed")


def run_forked(folder: Path, tests: Sequence[str], seconds: float, *options: str) -> int | None:
    """Run tests in a fork of this process.

    Returns:
        The exit status of pytest; None if it did not end within ``seconds``.
    """
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            os.setsid()
            os.chdir(folder)
            os.environ["PYTHONPATH"] = sys.path[0] = str(folder)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.dont_write_bytecode = True
            # Files of failed tests and of killed processes are deleted with the folder.
            os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="t-", dir=folder)
            log = os.open(folder / "pytest.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            import pytest

            fixed = ["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:benchmark"]
            status = int(pytest.main([*fixed, *options, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def passed_durations_of(results: Path) -> dict[str, float]:
    """Key of each passed test in a JUnit XML file -> seconds."""
    return {
        key_of_test(str(case.get("classname")), str(case.get("name"))): float(case.get("time") or 0)
        for case in ElementTree.parse(results).iter("testcase")
        if case.find("failure") is None and case.find("error") is None
    }


def tests_of(mutant: Mutant, by_line: dict[str, dict[int, set[str]]]) -> set[str]:
    """The tests that run a mutant's line; of code that runs at import, any line of its file."""
    lines = by_line.get(mutant.file, {})
    return lines.get(mutant.line) or set().union(*lines.values())


def fastest_tests(tests: set[str], durations: dict[str, float], seconds: float) -> list[str]:
    """The tests with a duration, fastest first, as many as fit into ``seconds``."""
    chosen = []
    for test in sorted(tests & durations.keys(), key=lambda test: (durations[test], test)):
        seconds -= durations[test]
        if seconds < 0:
            break
        chosen.append(test)
    return chosen


def report(results: Sequence[Result], seed: int) -> str:
    """Markdown: the outcomes of each group, then the survivors."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        rows[result.mutant.group][result.outcome] += 1
    outcomes = ("killed", "timeout", "survived", "uncovered")
    lines = [f"# Mutants (seed {seed})", "", f"| group | {' | '.join(outcomes)} |"]
    lines.append("|---" * (len(outcomes) + 1) + "|")
    for group, counts in sorted(rows.items()):
        lines.append(f"| {group} | {' | '.join(str(counts[name]) for name in outcomes)} |")
    lines += ["", "Survivors:", ""]
    for result in results:
        if result.outcome in ("survived", "uncovered"):
            mutant = result.mutant
            name = mutant.operator.removeprefix("core/")
            lines.append(f"- `{mutant.file}:{mutant.line}` {name} ({result.outcome})")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Sample and test mutants, write the report, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of each mutant")
    parser.add_argument("--report", type=Path)
    parser.add_argument(
        "--at-least", type=float, default=0.0, help="smallest percentage of killed mutants"
    )
    parser.add_argument(
        "--by-file", action="store_true", help="run the tests of a group's files, without coverage"
    )
    parser.add_argument(
        "--measure",
        nargs=argparse.REMAINDER,
        help="record coverage first; then pytest's arguments",
    )
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure)
    by_line = {} if arguments.by_file else tests_by_line()
    for name in PRELOADED:
        importlib.import_module(name)
    results = []
    with tempfile.TemporaryDirectory(prefix="mut-") as name:
        copy = Copy(Path(name) / "checkout")
        mutants = sample(arguments.sample, arguments.seed)
        if arguments.by_file:
            of_group = {group: collect_tests(copy.folder, TESTS[group]) for group in TESTS}
            candidates = [of_group[mutant.group] for mutant in mutants]
        else:
            candidates = [tests_of(mutant, by_line) for mutant in mutants]
        durations = copy.passing(sorted(set().union(*candidates)))
        for mutant, tests_of_mutant in zip(mutants, candidates, strict=True):
            tests = fastest_tests(tests_of_mutant, durations, SHARE_OF_TESTS * arguments.seconds)
            result = copy.test(mutant, tests, arguments.seconds)
            results.append(result)
            print(json.dumps({**vars(mutant), "outcome": result.outcome,
                              "seconds": round(result.seconds, 1)}), flush=True)  # fmt: skip
    text = report(results, arguments.seed)
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    killed = sum(result.outcome in ("killed", "timeout") for result in results)
    return 0 if 100 * killed >= arguments.at_least * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
