"""Starting the ranks of this machine with torchrun's agent, and ending them all when one ends badly."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from layerpipe2.distributed import follow
from layerpipe2.distributed.health.agreement import check_agreement, code_and_versions
from layerpipe2.distributed.health.bulletin import Bulletin
from layerpipe2.distributed.outputs import Outputs
from layerpipe2.distributed.store import host_store, join_store
from layerpipe2.errors import UserError

_READ_S = 4.0  # from the news that all end to SIGTERM
_GRACE_S = 3.0  # from there to SIGKILL
_MONITOR_S = 0.1
_COLLECTED = "collected"  # the agent has taken its status: the process number may be another's by now


@dataclass(frozen=True)
class Launch:
    """What to start here.

    Args:
        command: arguments of Python: a script, or ``-m`` and a module, and their own arguments.
        processes: ranks on this machine.
        nodes: number of machines; each starts as many processes, or a number of its own.
        node_rank: which of them this is; number 0 serves the store.
        host: address of node 0, the same on all nodes.
        port: port of the store; 0 takes a free one (one machine only).
        timeout_s: how long to wait for other nodes.
    """

    command: Sequence[str]
    processes: int
    nodes: int
    node_rank: int
    host: str
    port: int
    timeout_s: float


def launch(job: Launch) -> None:
    """Start the ranks and wait for them. Returns when all ranks of this machine have succeeded.

    Raises:
        UserError: if the port is taken, a node never comes or runs other code.
        SystemExit: with code 2 if a rank failed anywhere; one line has said which and why.
        KeyboardInterrupt: on Ctrl-C; all ranks have ended.
    """
    if job.node_rank == 0:
        store = host_store(job.host, job.port, job.timeout_s)
    else:
        store = join_store(job.host, job.port, job.timeout_s)
    nodes = PrefixStore("layerpipe2/nodes", store)
    check_agreement(nodes, job.node_rank, job.nodes, code_and_versions(), job.timeout_s, member="node")
    bulletin = Bulletin(job.host, store.port, job.node_rank, job.nodes)
    outputs = Outputs()
    agent = _Agent(_spec(job, store.port), outputs, bulletin)
    with _quiet_logging():
        try:
            failed = agent.run().is_failed()
        except SignalException as caught:
            bulletin.tell(f"the launcher on {socket.gethostname()} got {caught.sigval.name}")
            outputs.finish()
            if caught.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise UserError(f"ended by {caught.sigval.name}, with all ranks") from None
        finally:
            bulletin.leave(job.timeout_s)
    outputs.finish()
    if failed:
        if not outputs.said_why:
            print(f"layerpipe2: {bulletin.verdict}; all ranks end", file=sys.stderr)
        raise SystemExit(2)


def _spec(job: Launch, port: int) -> WorkerSpec:
    rendezvous = RendezvousParameters(
        backend="static",
        endpoint=f"{job.host}:{port}",
        run_id="layerpipe2",
        min_nodes=job.nodes,
        max_nodes=job.nodes,
        rank=job.node_rank,
        timeout=max(1, int(job.timeout_s)),
    )
    # -I -S: this small script starts in milliseconds, whatever the environment holds. The agent fills in $NAMES.
    arguments = ["-I", "-S", str(Path(follow.__file__)), str(os.getpid()), *(a.replace("$", "$$") for a in job.command)]
    return WorkerSpec(
        role="rank",
        local_world_size=job.processes,
        entrypoint=sys.executable,
        args=tuple(arguments),
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=0,
        monitor_interval=_MONITOR_S,
        master_addr=job.host,
        master_port=port,
    )


class _Agent(LocalElasticAgent):
    """torchrun's agent, with three differences.

    It says which rank failed first, and how, to all nodes at once: torchrun waits up to 30 s for the others to end
    before it reports, then lists those that it ended itself as failures, too. It ends its ranks when another node's
    rank has failed. It waits for nobody longer than a few seconds.
    """

    def __init__(self, spec: WorkerSpec, outputs: Outputs, bulletin: Bulletin) -> None:
        super().__init__(spec, outputs, start_method="spawn", exit_barrier_timeout=0)
        self._bulletin = bulletin

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        ended = {worker.global_rank: _ended(worker.id) for worker in worker_group.workers}
        failed = {rank: how for rank, how in ended.items() if how not in (None, "", _COLLECTED)}
        if failed:
            rank, how = next(iter(failed.items()))
            self._bulletin.tell(f"rank {rank} ({socket.gethostname()}) {how}")
            self._end_ranks()
        elif self._bulletin.verdict is not None and None in ended.values():
            self._end_ranks()  # another node's rank failed
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _exit_barrier(self) -> None:
        """The other nodes' ranks may still need the store; :meth:`Bulletin.leave` waits for them."""

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        self._end_ranks()
        super()._shutdown(death_sig)

    def _end_ranks(self) -> None:
        """End all ranks here, and what they started: first by themselves, then politely, then by force."""
        ranks = [worker.id for worker in self._worker_group.workers if _ended(worker.id) != _COLLECTED]
        if self._bulletin.verdict is not None and self._bulletin.watched:
            _wait(ranks, _READ_S)  # their watchdogs read it, too, and end them without another word
        for pid in ranks:
            _signal(pid, signal.SIGTERM)
        _wait(ranks, _GRACE_S)
        for pid in ranks:
            _signal(pid, signal.SIGKILL)


def _wait(ranks: Sequence[int], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while any(_ended(pid) is None for pid in ranks) and time.monotonic() < end:
        time.sleep(_MONITOR_S / 2)


def _signal(group: int, kind: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, kind)


def _ended(pid: Any) -> str | None:
    """How a child process ended, "" if well, None if it hasn't. Its status stays for the agent to collect."""
    if pid is None:
        return _COLLECTED
    try:
        state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return _COLLECTED
    if state is None:
        return None
    if state.si_code == os.CLD_EXITED:
        return f"ended with exit code {state.si_status}" if state.si_status else ""
    return f"was killed by {signal.Signals(state.si_status).name}"


@contextmanager
def _quiet_logging() -> Iterator[None]:
    # The agent logs a dozen lines and a traceback for every rank that ends; what matters is said in one.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
