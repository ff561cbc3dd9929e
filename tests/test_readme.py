"""The commands, links and matrices of the README and the docs exist."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.cli import context as context_module
from protoseg.cli.command_line import make_parser
from protoseg.cli.context import Context
from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.matrix_bundles import list_matrices_and_bundles
from protoseg.config.tuning.expand import make_trial_matrix

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FOLLOWED = (
    *("your_backbone.md", "your_method.md", "your_loss.md", "your_logger.md"),
    "installation.md",
)
"""Pages whose commands need files that the page creates; tests/test_own_pages.py and
tests/test_wheel.py run them."""


def commands(page: Path) -> list[str]:
    """The commands in the shell blocks of a page, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def protoseg_commands() -> list[str]:
    """All distinct ``protoseg`` commands of the pages."""
    pages = [page for page in PAGES if page.name not in FOLLOWED]
    lines = [line for page in pages for line in commands(page) if line.startswith("protoseg ")]
    assert lines, "the pages have no commands"
    return list(dict.fromkeys(lines))


@functools.cache
def composer(folder: Path) -> Composer:
    """One composer for all tests of this file, because the config files do not change."""
    return Composer(folder)


@pytest.fixture
def shared_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each matrix is loaded once for all tests of this file."""
    monkeypatch.setattr(context_module, "Composer", composer)
    monkeypatch.setattr(context_module, "load_matrix", load_matrix_once)


def load_matrix_once(composer: Composer, name: str, overrides: list[str]) -> Matrix:
    """`load_matrix`, cached."""
    return _load_matrix(composer, name, tuple(overrides))


_load_matrix = functools.cache(load_matrix)


@pytest.mark.usefixtures("shared_matrices")
@pytest.mark.parametrize("command", protoseg_commands())
def test_a_documented_command_parses_and_its_matrices_exist(command: str) -> None:
    arguments = make_parser().parse_args(shlex.split(command)[1:])
    saved = [operand for operand in arguments.operands if operand.endswith(".json")]
    if arguments.verb == "tables" and saved:
        return  # benchmark results: tests/benchmarks
    if arguments.verb == "explain":
        del arguments.operands[1:]  # the row and the column
    if arguments.verb in ("plan", "sweep", "status", "tables", "figures", "explain", "report"):
        context = Context(arguments)
        context.matrices()
        assert (context.cluster is not None) == ("cluster=" in command)


def test_the_readme_starts_with_make_quickstart_and_make_test() -> None:
    first_block = commands(ROOT / "README.md")[:2]
    assert [line.split()[:2] for line in first_block] == [["make", "quickstart"], ["make", "test"]]
    for line in first_block:
        target = line.split()[1]
        result = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
        )
        assert result.returncode == 0, result.stderr


def test_the_matrices_shown_in_the_docs_load(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "matrices.md").read_text(), re.S)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"block{number}.yaml"
        path.write_text(block)
        matrix = load_matrix(composer(ROOT / "experiments"), str(path))
        runs = make_trial_matrix(matrix).runs if matrix.tuning else matrix.runs
        assert len(runs) > 1


def test_links_between_the_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_matrix_named_in_the_docs_exists() -> None:
    names = {
        name
        for group in list_matrices_and_bundles(ConfigFolders(ROOT / "experiments"))
        for name in group
    }
    for command in protoseg_commands():
        _, verb, *arguments = shlex.split(command)
        if not arguments or arguments[-1].endswith(".json"):
            continue
        if verb in ("plan", "sweep", "status", "tables", "figures", "explain", "report"):
            assert arguments[0] == "--all" or arguments[0] in names
