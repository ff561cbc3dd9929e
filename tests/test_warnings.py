"""Warnings about our own code are errors in the tests (filterwarnings in pyproject.toml)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.install
TESTS = Path(__file__).parent
OWN_MODULES = (
    *("protoseg", "protoseg.core.losses", "protoseg.training.worker"),
    *("conftest", "waiting", "test_warnings", "core.test_losses", "cli.conftest"),
    *("compare", "testbed"),
)
OTHER_MODULES = ("mmengine.utils.misc", "torch.jit", "protoseg_extras", "corelib", "importlib")
CATEGORIES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning)


def warn(category: type[Warning], module: str) -> None:
    """Issue a warning as line 1 of ``module`` would."""
    warnings.warn_explicit("out of date", category, f"{module}.py", 1, module=module)


@pytest.fixture
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that are not errors under the filters of the suite."""
    with warnings.catch_warnings(record=True) as messages:
        yield messages


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("module", OWN_MODULES)
def test_a_warning_about_our_own_code_is_an_error(category: type[Warning], module: str) -> None:
    with pytest.raises(category, match="out of date"):
        warn(category, module)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("module", OTHER_MODULES)
def test_a_warning_about_another_package_is_shown(
    recorded: list[warnings.WarningMessage], category: type[Warning], module: str
) -> None:
    warn(category, module)
    assert [message.category for message in recorded] == [category]


@pytest.mark.parametrize("category", [RuntimeWarning, ResourceWarning])
def test_numeric_problems_and_unclosed_files_are_errors_everywhere(
    category: type[Warning],
) -> None:
    with pytest.raises(category, match="out of date"):
        warn(category, "mmengine.utils.misc")


def test_warnings_about_test_modules_are_errors(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if item.path.is_relative_to(TESTS)]
    for module in {item.module.__name__ for item in items if isinstance(item, pytest.Function)}:
        with pytest.raises(DeprecationWarning):
            warn(DeprecationWarning, module)
