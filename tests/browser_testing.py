"""A real browser for tests of pages: Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/) through chromedriver.

Debian's packages chromium and chromium-driver; without them these tests are skipped, or fail where `REQUIRED` is set to 1.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

__all__ = ["REQUIRED", "Browser", "browser"]

REQUIRED = "NEXUS_ATTEST_REQUIRE_BROWSER"

_REQUIRED = os.environ.get(REQUIRED) == "1"
"""Read when this is imported: within tests, variables of this project are not set."""

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name that the standard gives to references to elements."""

_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Browser:
    """One window. Every call raises for what the browser refuses."""

    def __init__(self, session: str) -> None:
        self._session = session

    def go(self, url: str) -> None:
        self._ask("url", url=url)

    def enter(self, selector: str) -> None:
        """Look into a frame from now on."""
        self._ask("frame", id=self._find(selector))

    def leave(self) -> None:
        """Look at the whole page again."""
        self._ask("frame", id=None)

    def click(self, selector: str) -> None:
        """As a person does: where it is, if it can be seen."""
        self._ask(f"element/{self._find(selector)[_ELEMENT]}/click")

    def run(self, script: str) -> Any:
        """What a script returns that runs in the page."""
        return self._ask("execute/sync", script=script, args=[])

    def _find(self, selector: str) -> dict[str, str]:
        return self._ask("element", using="css selector", value=selector)

    def _ask(self, command: str, **parameters: Any) -> Any:
        found = httpx.post(f"{self._session}/{command}", json=parameters, timeout=60)
        value: Any = found.json()["value"]
        assert found.status_code == 200, value
        return value


@contextmanager
def browser(folder: Path) -> Generator[Browser]:
    """A browser with a profile of its own below `folder`."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "there is no Chromium here: apt-get install chromium chromium-driver"
        pytest.fail(f"{REQUIRED}=1, but {reason}") if _REQUIRED else pytest.skip(reason)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [driver, "--port=0"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            started = next((found for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line))), None)
            if started is None:
                pytest.fail("chromedriver does not start")
            options = {"binary": chromium, "args": [*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]}
            body = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
            base = f"http://127.0.0.1:{started[1]}/session"
            made = httpx.post(base, json=body, timeout=60)
            assert made.status_code == 200, made.text
            session = f"{base}/{made.json()['value']['sessionId']}"
            try:
                yield Browser(session)
            finally:
                httpx.delete(session, timeout=60)
        finally:
            process.terminate()
