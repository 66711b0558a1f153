"""Two processes that run one program after the other: to start them takes longer than to train one."""

import atexit
import pickle
import socket
import tempfile
import traceback
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from layerpipe2 import UserError
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline.processes import CONTEXT, _set_environment
from tests.programs.program import Found, Program, by_trainer

WORLD = 2


class TwoProcesses:
    """Started when a program comes; started anew after one that was refused, which ends a pipeline."""

    def __init__(self) -> None:
        self._workers: list[Any] = []
        self._pipes: list[Connection] = []
        atexit.register(self.end)

    def run(self, program: Program) -> Found:
        """What both found.

        Raises:
            UserError: if it was refused.
        """
        if not self._workers:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            for pipe in self._pipes:
                pipe.send_bytes(pickle.dumps((program, folder)))
            answers = list(map(self._answer, self._pipes, self._workers))
        found = [value for kind, value in answers if kind == "found"]
        if len(found) == WORLD:
            whole = {name: value for one in found for name, value in one.weights.items()}
            return Found(found[-1].losses, found[-1].validations, whole)
        self.end()
        for kind, value in answers:
            if kind == "refused":
                raise UserError(value)
        raise AssertionError("\n".join(str(value) for _, value in answers))

    def end(self) -> None:
        """Both."""
        for worker in self._workers:
            worker.kill()
            worker.join()
        self._workers, self._pipes = [], []

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        for rank in range(WORLD):
            mine, theirs = CONTEXT.Pipe()
            self._pipes.append(mine)
            self._workers.append(CONTEXT.Process(target=_serve, args=(rank, port, theirs), daemon=True))
        for worker in self._workers:
            worker.start()

    def _answer(self, pipe: Connection, worker: Any) -> tuple[str, Any]:
        # The other process holds this pipe's end too: one that ends does not close it.
        if not wait([pipe, worker.sentinel], 60):
            return "hang", "no answer within a minute"
        try:
            return pickle.loads(pipe.recv_bytes()) if pipe.poll() else ("ended", "a process has ended")
        except (EOFError, OSError):
            return "ended", "a process has ended"


def _serve(rank: int, port: int, pipe: Connection) -> None:
    _set_environment(rank, WORLD, port)
    while True:
        program, folder = pickle.loads(pipe.recv_bytes())
        try:
            place = partial(PipelineStrategy, timeout_s=30, split_backward=program.split_backward)
            answer: tuple[str, Any] = "found", by_trainer(program, place, folder)
        except UserError as error:
            answer = "refused", str(error)
        except BaseException:
            answer = "traceback", traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
