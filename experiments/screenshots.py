"""Screenshots of MLflow for the documentation: `make screenshots`, after `make ui` has copied the runs.

Needs Chromium (Debian: apt-get install chromium). The server listens on a free port of 127.0.0.1, and ends with this.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from experiments.browser import Browser, find_browser
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import writable_folder
from layerpipe2.lab.tracking.view import link

PAGES = {
    "mlflow-cells": ("cells", "", "document.querySelectorAll('.ag-center-cols-container [role=row]').length > 9"),
    "mlflow-seeds": ("seeds", "", "document.body.innerText.includes('Group:')"),
    "mlflow-charts": ("cells", "&compareRunsMode=CHART", "document.querySelectorAll('.main-svg').length > 7"),
}
"""File -> prepared page, what its link has more, and what it has to show."""
_CLOSE = """
document.querySelectorAll('button[aria-label="Close"], button[aria-label="Hide banner"]').forEach(b => b.click())
"""
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one PNG per page.

    Raises:
        UserError: if there is no browser, no database, or a page doesn't show what it should.
    """
    parser = Parser(prog="python -m experiments.screenshots", description=__doc__)
    parser.add_argument("--database", type=Path, default=Path("mlflow.db"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    program = find_browser()
    if program is None:
        raise UserError("there is no Chromium here; install it (Debian: apt-get install chromium)")
    if not options.database.is_file():
        raise UserError(f"there is no database {options.database}; run: python -m experiments.track")
    out = writable_folder(options.out)
    with served(options.database) as server, Browser(program, 1500, 860) as browser:
        for name, (key, more, shown) in PAGES.items():
            browser.open(link(server, "1", key) + more)
            try:
                browser.wait(shown)
            except RuntimeError as error:
                raise UserError(f"page '{key}': {error}") from None
            browser.evaluate(_CLOSE)
            time.sleep(2)  # what moves comes to rest
            browser.screenshot(out / f"{name}.png")
            print(out / f"{name}.png")


@contextmanager
def served(database: Path) -> Iterator[str]:
    """MLflow's server of a database; gives its address.

    Raises:
        UserError: if it doesn't start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{database.resolve()}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=os.environ | _ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise UserError("MLflow's server doesn't start; try: mlflow ui")


if __name__ == "__main__":
    sys.exit(run_command("experiments.screenshots", main, None))
