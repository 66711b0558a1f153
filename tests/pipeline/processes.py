"""Run a function in several processes, as torchrun would start them."""

import atexit
import os
import pickle
import signal
import socket
import sys
import traceback

import torch
import torch.multiprocessing as mp
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from layerpipe2 import UserError
from layerpipe2.pipeline.process_group import in_one_line

CONTEXT = mp.get_context("fork")


def run(function, world: int, *args, timeout: float = 120, context=CONTEXT, **options):
    """``function(*args)`` in ``world`` processes; the list of what each returned. Fails with the first traceback."""
    results = context.Queue()
    workers = _start(context, _return, range(world), world, function, args, options, results)
    try:
        found = {}
        for _ in workers:
            rank, value, error = results.get(timeout=timeout)
            if error is not None:
                raise AssertionError(f"rank {rank} failed:\n{error}")
            found[rank] = pickle.loads(value)
        return [found[rank] for rank in range(world)]
    finally:
        _end(workers)


def ends(function, world: int, folder, *args, timeout: float = 120, absent=None, resume=None, **options):
    """How each process ended that ran ``function(*args)``: exit code (negative: a signal) and its standard error.

    The rank ``absent`` doesn't start; ``resume``, which stops itself, goes on when all others have ended.
    """
    ranks = [rank for rank in range(world) if rank != absent]
    workers = _start(CONTEXT, _exit, ranks, world, function, args, options, folder)
    try:
        for rank, worker in sorted(workers.items(), key=lambda item: item[0] == resume):
            if rank == resume:
                os.kill(worker.pid, signal.SIGCONT)
            worker.join(timeout)
        return [(worker.exitcode, (folder / f"{rank}.log").read_text()) for rank, worker in workers.items()]
    finally:
        _end(workers)


def _start(context, target, ranks, *args):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    workers = {rank: context.Process(target=target, args=(rank, port, *args)) for rank in ranks}
    for worker in workers.values():
        worker.start()
    return workers


def _end(workers):
    for worker in workers.values():
        worker.kill()
        worker.join()


def _return(rank, port, world, function, args, options, results):
    _set_environment(rank, world, port)
    try:
        # As bytes: a tensor's memory would go with its process.
        results.put((rank, pickle.dumps(function(*args, **options)), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def _exit(rank, port, world, function, args, options, folder):
    os.dup2(os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    _set_environment(rank, world, port)
    atexit._clear()  # what the parent has registered is the parent's
    sys.excepthook = in_one_line  # as in a script under `layerpipe2 launch`
    try:
        function(*args, **options)
    except UserError:
        sys.excepthook(*sys.exc_info())  # as the interpreter does with what nobody catches
    finally:
        atexit._run_exitfuncs()


def _set_environment(rank, world, port):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo")
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    torch.set_num_threads(1)
    # Of GPUs; started processes know nothing of the fixture that sets it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
