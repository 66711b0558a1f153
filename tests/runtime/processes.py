"""Run a function in several processes, as torchrun would start them."""

import os
import pickle
import socket
import traceback

import torch
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _enter(rank, world, port, function, args, options, results):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    try:
        results.put(
            (rank, pickle.dumps(function(*args, **options)), None)
        )  # as bytes: a tensor's memory goes with its process
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def run(function, world: int, *args, timeout: float = 120, **options):
    """``function(*args)`` in ``world`` processes; the list of what each returned. Fails with the first traceback."""
    context = mp.get_context("fork")
    results = context.Queue()
    port = free_port()
    workers = [
        context.Process(target=_enter, args=(r, world, port, function, args, options, results)) for r in range(world)
    ]
    for worker in workers:
        worker.start()
    try:
        found = {}
        for _ in workers:
            rank, value, error = results.get(timeout=timeout)
            if error is not None:
                raise AssertionError(f"rank {rank} failed:\n{error}")
            found[rank] = pickle.loads(value)
        return [found[rank] for rank in range(world)]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
