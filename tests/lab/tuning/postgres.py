"""A PostgreSQL server for tests: started on a free loopback port, with its data in a temporary folder."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

USER, PASSWORD = "tuner", "s3cret"


class Server:
    """A server that is started, stopped and started again on the same port and with the same data.

    Its folder isn't one of pytest's, which only their user may enter: the server refuses to be root's.
    """

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        assert found, "no PostgreSQL below /usr/lib/postgresql; run: apt-get install postgresql"
        self.programs, self.folder = found[-1].parent, Path(tempfile.mkdtemp(prefix="layerpipe2-postgres-"))
        root = os.getuid() == 0
        self.owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": ()} if root else {}
        if root:
            shutil.chown(self.folder, "postgres", "postgres")
        (self.folder / "password").write_text(PASSWORD)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--no-sync", f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        assert self._begin("initdb", *options).wait() == 0, self._said()
        self.start()

    def address(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """As --storage takes it."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port}
        words = (word for name, value in options.items() for word in ("-c", f"{name}={value}"))
        self.process = self._begin("postgres", *words)
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert self.process.poll() is None, self._said()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, with all its connections."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def remove(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self.folder)

    def run(self, statement: str) -> None:
        """Run one statement."""
        with psycopg.connect(self.address(), autocommit=True) as connection:
            connection.execute(statement)

    def _begin(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(command, stdout=said, stderr=said, cwd="/", **self.owner)

    def _said(self) -> str:
        return (self.folder / "said").read_text()
