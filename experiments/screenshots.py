"""The picture of MLflow in the documentation: `make screenshots`, after `make ui` has copied the runs.

Needs Chromium (Debian: apt-get install chromium). The server listens on a free port of 127.0.0.1, and ends with this.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from matplotlib.image import imread, imsave

from experiments.track_summary import LISTS, link
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import output_file

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=60000")
_WIDTH, _SHOWN, _HEIGHT = 1900, 1412, 860  # the panel of MLflow's assistant, on the right, is left out
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the charts of the first experiment's cells as a PNG.

    Raises:
        UserError: if there is no browser, no database, or no picture comes of it.
    """
    parser = Parser(prog="python -m experiments.screenshots", description=__doc__)
    parser.add_argument("--database", type=Path, default=Path("mlflow.db"), help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/pictures/mlflow-charts.png"), help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    if (browser := shutil.which("chromium")) is None:
        raise UserError("there is no Chromium here; install it (Debian: apt-get install chromium)")
    if not options.database.is_file():
        raise UserError(f"there is no database {options.database}; run: python -m experiments.track")
    out = output_file(options.out)
    with served(options.database) as server, tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "page.png")
        flags = [*_FLAGS, f"--user-data-dir={folder}", f"--window-size={_WIDTH},{_HEIGHT}"]
        command = [browser, *flags, f"--screenshot={picture}", link(server, "1", LISTS["charts"])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if not picture.is_file():
            raise UserError(f"Chromium took no picture: {ended.stderr.strip().rpartition(chr(10))[2]}")
        imsave(out, imread(picture)[:, :_SHOWN], pil_kwargs={"optimize": True})
    print(out)


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
