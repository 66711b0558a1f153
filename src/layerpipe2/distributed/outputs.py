"""What the ranks of a machine print, shown line by line, with the rank in front."""

from __future__ import annotations

import os
import re
import selectors
import sys
import threading
from typing import BinaryIO

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

_LINE = re.compile(rb"[^\r\n]*[\r\n]")
_END_OF_ALL = re.compile(rb"layerpipe2: (error: .*|.*; all ranks end)\s*")


class Outputs(LogsSpecs):
    """Where torchrun's agent sends the ranks' output: pipes, which a thread copies to this process's own streams.

    Every line gets ``[rank k]`` in front. All ranks say why they end in the same words (or are told to end while they
    still complain): only the first of these lines is shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said_why = False
        self._sources = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self._finished = threading.Event()
        self._copier = threading.Thread(target=self._copy, daemon=True)

    @property
    def root_log_dir(self) -> str:
        """No files are written."""
        return os.devnull

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Pipes for the local ranks. The agent opens them by name."""
        names: tuple[dict[int, str], dict[int, str]] = {}, {}
        for local, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = ""
            for name, stream in zip(names, (sys.stdout.buffer, sys.stderr.buffer), strict=True):
                source, sink = os.pipe()
                self._sources.register(source, selectors.EVENT_READ, (stream, f"[rank {env['RANK']}] ".encode()))
                self._rest[source] = b""
                name[local] = f"/dev/fd/{sink}"
        self._copier.start()
        return LogsDest(stdouts=names[0], stderrs=names[1], error_files=dict.fromkeys(envs, os.devnull))

    def finish(self) -> None:
        """Show what is left; the ranks have ended."""
        self._finished.set()
        if self._copier.is_alive():
            self._copier.join()

    def _copy(self) -> None:
        # The pipes' other ends stay open here and in a rank's own children, so no end of file will tell.
        while True:
            last = self._finished.is_set()
            ready = self._sources.select(timeout=0 if last else 0.1)
            for key, _ in ready:
                self._take(key.fd, *key.data)
            if last and not ready:
                break
        for key in self._sources.get_map().values():
            if self._rest[key.fd]:
                self._show(self._rest[key.fd] + b"\n", *key.data)

    def _take(self, source: int, stream: BinaryIO, prefix: bytes) -> None:
        text = self._rest[source] + os.read(source, 65536)
        lines = _LINE.findall(text)
        self._rest[source] = text[sum(map(len, lines)) :]
        for line in lines:
            self._show(line, stream, prefix)

    def _show(self, line: bytes, stream: BinaryIO, prefix: bytes) -> None:
        if _END_OF_ALL.fullmatch(line):
            if self.said_why:
                return
            self.said_why = True
            prefix = prefix if line.startswith(b"layerpipe2: error: ") else b""
        stream.write(prefix + line if line.strip() else line)
        stream.flush()
