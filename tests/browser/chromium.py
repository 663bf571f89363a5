"""Debian's chromium, driven from a thread beside the nodes that run in trio.

A test has two halves: its nodes run in trio, its visit runs in another thread with playwright's blocking interface,
and asks the nodes for things with `ask`. All visits share one browser, whose start costs more than most of them, and
each has a profile of its own there: no page sees what another one left.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.programs import find_program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-rasterization",
    "--disable-extensions",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000
"""How long the page may take to show something: an outer bound for slow machines, never waited for."""


class Visit:
    """A page under test, and everything about it that a test must not overlook."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("console", self._heard)
        page.on("request", lambda request: None if request.url.startswith(url) else self.elsewhere.append(request.url))

    def _heard(self, message: Any) -> None:
        # The browser tells of every answer that is not 2xx, and of a server that is away; the page deals with both.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def unlock(self, token: str) -> None:
        """Give the token in the dialog that asks for it."""
        self.page.locator("#token-dialog[open]").wait_for()
        self.page.fill("#token", token)
        self.page.press("#token", "Enter")

    def open(self, token: str, path: str = "/") -> None:
        """Load the page and wait until it is live."""
        self.page.goto(self.url + path)
        self.unlock(token)
        self.until_live()

    def until_live(self) -> None:
        self.page.locator('#health[data-state="live"]').wait_for()

    def until(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()


class Shared:
    """Chromium without a window, and the one thread that playwright lets speak with it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "browser")
        self._open = ExitStack()
        self._browser: Browser | None = None

    def run(self, work: Callable[[Browser], None]) -> None:
        """Do something with the browser, which is started if it does not run."""
        self._thread.submit(copy_context().run, self._run, work).result()

    def _run(self, work: Callable[[Browser], None]) -> None:
        # Each process that collects these tests would import it.
        from playwright.sync_api import sync_playwright

        if self._browser is None or not self._browser.is_connected():
            self._open.close()
            playwright = self._open.enter_context(sync_playwright())
            self._browser = playwright.chromium.launch(executable_path=find_program("chromium"), args=QUIET)
            self._open.callback(self._browser.close)
        work(self._browser)

    def close(self) -> None:
        """End the browser and the thread."""
        self._thread.submit(self._open.close).result()
        self._thread.shutdown()


SHARED = Shared()
_nodes: ContextVar[trio.lowlevel.TrioToken] = ContextVar("_nodes")


def ask(node: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Call an async function of a node from a visit."""
    return trio.from_thread.run(node, *arguments, trio_token=_nodes.get(None))


async def visit(url: str, steps: Callable[[Visit], None], **context: Any) -> None:
    """Run the steps in a page; fails if the page complained, or asked anybody else for anything."""

    def run(browser: Browser) -> None:
        context.setdefault("viewport", {"width": 1280, "height": 900})
        page = browser.new_page(reduced_motion="reduce", **context)
        try:
            made = Visit(page, url)
            steps(made)
            assert made.complaints == []
            assert made.elsewhere == []
        finally:
            # A page that still asks for something is answered by nobody, and its end is no failure of the answer.
            page.unroute_all(behavior="ignoreErrors")
            page.close()

    _nodes.set(trio.lowlevel.current_trio_token())
    await trio.to_thread.run_sync(SHARED.run, run)


def killable(url: str, steps: Callable[[Visit, subprocess.Popen[bytes]], None]) -> None:
    """Run the steps in a browser whose process the test can kill."""
    from playwright.sync_api import sync_playwright

    program = find_program("chromium")
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [*QUIET, "--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _debugging_port(Path(profile) / "DevToolsActivePort", process)
            with sync_playwright() as playwright:
                # Its end is the point, so what playwright has to say of it is not.
                with suppress(Exception):
                    page = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}").new_page()
                    made = Visit(page, url)
                    steps(made, process)
        finally:
            process.kill()
            process.wait()


def _debugging_port(file: Path, process: subprocess.Popen[bytes]) -> int:
    give_up = time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < give_up and process.poll() is None:
        with suppress(FileNotFoundError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.02)  # a file of another program: nothing tells when it comes
    raise AssertionError("chromium did not open its debugging port")
