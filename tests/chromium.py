"""Debian's Chromium, driven by Playwright; tests that want it are skipped where it is missing,
unless SAECTL_NEEDS_CHROMIUM says that it must be there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage")
PATIENCE = 60_000
"""Milliseconds after which something that should happen in a page has not."""
STEP = 20


class Chromium:
    """One browser with one page at a time. Says what the page logged, asked for, and holds.

    All of it happens in a thread of its own: Playwright leaves a running event loop in its thread.
    """

    def __init__(self, program: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._troubles: list[str] = []
        self._page: Any = None

        def start() -> None:
            from playwright.sync_api import sync_playwright

            self._playwright = sync_playwright().start()
            self._browser = self._playwright.chromium.launch(
                executable_path=program, args=list(FLAGS)
            )

        self._thread.submit(start).result()

    def open(self, place: Path | str, width: int, *, dark: bool = False, height: int = 800) -> None:
        """Show a file, or what an address gives, on a fresh screen so wide, and wait until it has
        loaded."""
        url = place.as_uri() if isinstance(place, Path) else place

        def begin() -> None:
            if self._page is not None:
                self._page.context.close()
            context = self._browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                is_mobile=width < 700,
                has_touch=width < 700,
            )
            self._page = page = context.new_page()
            page.set_default_timeout(PATIENCE)
            self._troubles.clear()
            page.on("console", lambda said: self._troubles.append(said.text))
            page.on("pageerror", lambda error: self._troubles.append(str(error)))
            page.on("request", self._asked)
            page.goto(url)

        self._thread.submit(begin).result()

    def do(self, what: Callable[[Any], Any]) -> Any:
        """What `what(page)` gives, `page` being Playwright's: plain values only."""
        return self._thread.submit(lambda: what(self._page)).result()

    def value(self, script: str) -> Any:
        """What an expression of JavaScript is, in the page."""
        return self.do(lambda page: page.evaluate(script))

    def wait(self, script: str) -> None:
        """Until an expression of JavaScript is true. Fails after a long time. (Playwright's own
        waiting evaluates in the page, which a page's policy may forbid.)"""

        def until(page: Any) -> None:
            for _ in range(PATIENCE // STEP):
                if page.evaluate(script):
                    return
                page.wait_for_timeout(STEP)
            raise AssertionError(f"never true: {script}")

        self.do(until)

    def press(self, *keys: str) -> None:
        """Press keys, one after another."""
        for key in keys:
            self.do(lambda page, key=key: page.keyboard.press(key))

    def troubles(self) -> list[str]:
        """What the page wrote to the console, threw, or asked for beside files next to it."""
        self.value("0")  # what was on its way has come
        return list(self._troubles)

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        self.do(lambda page: page.screenshot(path=path, full_page=True) and None)

    def close(self) -> None:
        """End the browser."""

        def end() -> None:
            self._browser.close()
            self._playwright.stop()

        self._thread.submit(end).result()
        self._thread.shutdown()

    def _asked(self, request: Any) -> None:
        beside = request.frame.page.url.partition("#")[0].rpartition("/")[0] + "/"
        allowed = request.is_navigation_request() or request.url.startswith(("data:", beside))
        if not allowed:
            self._troubles.append(f"asked for {request.url}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser for all tests that look at pages."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    try:
        import playwright  # noqa: F401
    except ImportError:
        program = None
    if program is None:
        why = "Chromium or the package playwright is not installed (make chromium)"
        if os.environ.get("SAECTL_NEEDS_CHROMIUM"):
            pytest.fail(f"{why}, and SAECTL_NEEDS_CHROMIUM is set")
        pytest.skip(why)
    browser = Chromium(program)
    yield browser
    browser.close()
