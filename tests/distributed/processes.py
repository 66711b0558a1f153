"""Run a function in several processes, as torchrun would start them."""

import os
import pickle
import socket
import traceback

import torch
import torch.multiprocessing as mp

from layerpipe2 import UserError

CONTEXT = mp.get_context("fork")


def run(function, world: int, *args, timeout: float = 120, context=CONTEXT, **options):
    """``function(*args)`` in ``world`` processes; the list of what each returned. Fails with the first traceback."""
    results = context.Queue()
    workers = _start(_return, world, function, args, options, results, context=context)
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


def ends(function, world: int, folder, *args, timeout: float = 120, **options):
    """How each process ended that ran ``function(*args)``: exit code (negative: a signal) and its standard error."""
    workers = _start(_exit, world, function, args, options, folder)
    try:
        for worker in workers:
            worker.join(timeout)
        return [(w.exitcode, (folder / f"{rank}.log").read_text()) for rank, w in enumerate(workers)]
    finally:
        _end(workers)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _start(target, world, *args, context=CONTEXT):
    common = (world, free_port(), *args)
    workers = [context.Process(target=target, args=(rank, *common)) for rank in range(world)]
    for worker in workers:
        worker.start()
    return workers


def _end(workers):
    for worker in workers:
        worker.kill()
        worker.join()


def _return(rank, world, port, function, args, options, results):
    _set_environment(rank, world, port)
    try:
        # As bytes: a tensor's memory would go with its process.
        results.put((rank, pickle.dumps(function(*args, **options)), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def _exit(rank, world, port, function, args, options, folder):
    os.dup2(os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT), 2)
    _set_environment(rank, world, port)
    try:
        function(*args, **options)
    except UserError as error:
        os.write(2, f"layerpipe2: error: {error}\n".encode())
        os._exit(2)


def _set_environment(rank, world, port):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    # Of GPUs; started processes know nothing of the fixture that sets it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
