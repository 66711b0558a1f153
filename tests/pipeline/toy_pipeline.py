"""The smallest pipeline: every tick a tensor travels from rank to rank. It fails where its arguments say so.

``python toy_pipeline.py FAULT@RANK STEPS`` runs one rank under a launcher.
"""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.pipeline.health.agreement import check_agreement
from layerpipe2.pipeline.health.watchdog import Watchdog
from layerpipe2.pipeline.store import agent_hosts_store, host_store, join_store

TIMEOUT_S, INTERVAL_S, TICK_S = 2.0, 0.2, 0.02
FAULTY_STEP = 25


def train(fault: str, steps: int, times: int = 1, patience_s: float = 60.0) -> None:
    """Train ``times`` times; in the first, the fault ``KIND@RANK`` happens at step 25."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts_store = rank == 0 and not agent_hosts_store()
    store = (host_store if hosts_store else join_store)(host, port, patience_s)
    check_agreement(store, rank, world_size, {}, patience_s)
    for time_around in range(times):
        label = f"stage {rank}"
        watchdog = Watchdog(host, port, rank, world_size, timeout_s=TIMEOUT_S, label=label, interval_s=INTERVAL_S)
        if time_around == 0:
            dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=world_size)
        try:
            for step in range(1, steps + 1):
                if step == FAULTY_STEP:
                    print(f"rank {rank} at step {step}", flush=True)
                    if fault.endswith(f"@{rank}"):
                        _fail(fault.partition("@")[0], watchdog)
                _tick(rank, world_size, watchdog)
                watchdog.progress(step)
        except RuntimeError as error:
            raise UserError(watchdog.explain(error)) from error
        watchdog.close()


def _tick(rank: int, world_size: int, watchdog: Watchdog) -> None:
    time.sleep(TICK_S)
    activations = torch.full((4,), float(rank))
    if rank:
        watchdog.waiting(rank - 1)
        dist.recv(activations, rank - 1)
    if rank < world_size - 1:
        watchdog.waiting(rank + 1)
        dist.send(activations, rank + 1)
    watchdog.waiting(None)


def _fail(kind: str, watchdog: Watchdog) -> None:
    if kind in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    if kind == "nan":
        watchdog.fail("the loss is nan at step 25")
        raise UserError("the loss is nan at step 25")
    if kind == "bug":
        raise ZeroDivisionError("a bug on this rank")
    while kind == "hang":
        pass


if __name__ == "__main__":
    sys.exit(run_command("layerpipe2", lambda _: train(sys.argv[1], int(sys.argv[2])), None))
