"""A real browser: Chromium without a window, driven by chromedriver's HTTP interface (W3C WebDriver), so by no package.

One Browser is one profile; `fresh()` forgets its cookies. `by` is a CSS selector everywhere. The answer to a form may
take its time, and WebDriver does not wait for it: `with browser.next_page():` around whatever sends it does.
"""

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .programs import need

STARTS_WITHIN = 20.0
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key that the standard gives to a reference to an element."""

TAB, ENTER = "\ue004", "\ue007"


class Browser:
    """A context manager; `close` ends browser and driver."""

    def __init__(self, folder: Path) -> None:
        driver, chromium = need("chromedriver"), need("chromium")
        log = folder / "chromedriver.log"
        with log.open("wb") as written:
            self._driver = subprocess.Popen([driver, "--port=0"], stdout=written, stderr=subprocess.STDOUT)
        try:
            self._port = self._wait_for_port(log)
            options = {"args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"], "binary": chromium}
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        except BaseException:
            self._driver.kill()
            self._driver.wait()
            raise
        self._session = f"/session/{session['sessionId']}"

    def go(self, url: str) -> None:
        """Load a page."""
        self._do("POST", "/url", {"url": url})

    def click(self, by: str) -> None:
        """Click what leads to another page, and wait for that."""
        with self.next_page():
            self.tap(by)

    def tap(self, by: str) -> None:
        """Click what stays on this page."""
        self._do("POST", f"/element/{self._find(by)}/click", {})

    @contextmanager
    def next_page(self) -> Iterator[None]:
        """Wait, at the end of the block, until the page is another one than at its beginning."""
        self.run("window.left = false")
        yield
        there = "return window.left === undefined && document.readyState === 'complete'"
        assert self.until(lambda: bool(self.run(there))), self.url

    def type(self, by: str, text: str) -> None:
        """Type into an element."""
        self._do("POST", f"/element/{self._find(by)}/value", {"text": text})

    def press(self, keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self, by: str) -> str:
        """Return what an element shows."""
        return str(self._do("GET", f"/element/{self._find(by)}/text"))

    def label(self, by: str) -> tuple[str, str]:
        """Return the role and the name that a screen reader tells."""
        found = self._find(by)
        return self._do("GET", f"/element/{found}/computedrole"), self._do("GET", f"/element/{found}/computedlabel")

    def run(self, script: str) -> Any:
        """Return what JavaScript returns, or promises; this works on pages that allow no script, too."""
        return self._do("POST", "/execute/sync", {"script": script, "args": []})

    def cookies(self) -> list[dict[str, Any]]:
        """Return the cookies of the present page."""
        cookies: list[dict[str, Any]] = self._do("GET", "/cookie")
        return cookies

    @property
    def url(self) -> str:
        return str(self._do("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self._do("GET", "/title"))

    def until(self, condition: Callable[[], bool], within: float = 10.0) -> bool:
        """Wait for what comes a little later, and return whether it came."""
        end = time.monotonic() + within
        while not (met := condition()) and time.monotonic() < end:
            time.sleep(0.02)
        return met

    def look(self, *, width: int = 800, height: int = 900, dark: bool = False) -> None:
        """Be of a size, by day or by night."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    @contextmanager
    def another_tab(self) -> Iterator[None]:
        """Be in a second tab for the length of the block, while nobody sees the first."""
        first, second = self._do("GET", "/window"), self._do("POST", "/window/new", {"type": "tab"})["handle"]
        self._do("POST", "/window", {"handle": second})
        try:
            yield
        finally:
            self._do("DELETE", "/window")
            self._do("POST", "/window", {"handle": first})

    def fresh(self) -> None:
        """Forget all cookies, and leave the present page."""
        self.go("about:blank")
        self._devtools("Network.clearBrowserCookies", {})

    def console(self) -> list[str]:
        """Return what the browser complained about since the last call, such as a policy that was broken."""
        return [entry["message"] for entry in self._do("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._do("DELETE", "", None)
        finally:
            self._driver.send_signal(signal.SIGTERM)
            self._driver.wait(10)

    def _find(self, by: str) -> str:
        found: str = self._do("POST", "/element", {"using": "css selector", "value": by})[ELEMENT]
        return found

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._do("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _do(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, self._session + path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['message']}")
        return value

    def _wait_for_port(self, log: Path) -> int:
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until and self._driver.poll() is None:
            if found := re.search(r"started successfully on port (\d+)", log.read_text(errors="replace")):
                return int(found[1])
            time.sleep(0.02)
        raise RuntimeError(f"chromedriver did not start:\n{log.read_text(errors='replace')}")
