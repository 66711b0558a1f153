"""A headless Chromium for screenshots and tests, spoken to by its own protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
_PATIENCE = 60.0
_START = """
import fcntl, os, sys
for own, wanted in [(fcntl.fcntl(int(text), fcntl.F_DUPFD, 10), 3 + i) for i, text in enumerate(sys.argv[1:3])]:
    os.dup2(own, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts the browser with its two pipes at the numbers that it wants, 3 and 4."""


def find_browser() -> str | None:
    """The program, if this machine has one."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page, of a size in pixels.

    Raises:
        RuntimeError: if the browser ends, or a page doesn't come to show what is waited for.
    """

    def __init__(self, program: str, width: int = 1400, height: int = 800) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="layerpipe2-browser-", ignore_cleanup_errors=True)
        read, self._out = os.pipe()
        answers, write = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(read), str(write), program, *flags],
            pass_fds=(read, write),
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._in = os.fdopen(answers, "rb")
        self._rest, self._count, self._session = b"", 0, ""
        try:
            self._attach(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        self._in.close()
        os.close(self._out)
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Go to a page, from an empty one: addresses that differ behind their # alone are loaded again, too."""
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=address)

    def evaluate(self, script: str) -> Any:
        """The plain value of an expression in JavaScript."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + _PATIENCE
        while not (value := self.evaluate(script)):
            if time.monotonic() > end:
                raise RuntimeError(f"the page never came to {script}; it shows: {self.text()[:500]}")
            time.sleep(0.1)
        return value

    def text(self) -> str:
        """What the page shows."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def screenshot(self, path: Path) -> None:
        """Write what the page shows, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _attach(self, width: int, height: int) -> None:
        page = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._answer()).get("id") != self._count:
            pass  # an event
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not (part := os.read(self._in.fileno(), 65536)):
                raise RuntimeError("the browser has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))
