"""Opens pages in headless Chromium: Debian's package ``chromium``, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A started Chromium; `errors` collects what a console would show."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self.errors: list[str] = []

    @contextmanager
    def open_page(
        self, path: Path, width: int = 1200, fragment: str = "", **options: Any
    ) -> Iterator[Any]:
        """Open a file in a new window.

        Args:
            path: the file.
            width: of the window in pixels.
            fragment: part of the page to go to.
            options: of the window, for Playwright's ``new_context``.
        """
        size = {"width": width, "height": 800}
        context = self._chromium.new_context(viewport=size, offline=True, **options)
        context.set_default_timeout(1000 * DEADLINE)
        page = context.new_page()
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.errors.append(request.url))
        page.goto(f"{path.as_uri()}{fragment}")
        try:
            yield page
        finally:
            context.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module, which must leave its console empty."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        # Chromium refuses to run as root in its sandbox.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
