"""Messages between two processes: the same by shared memory and by gloo, whatever becomes of one of the processes."""

import atexit
import errno
import os
import re
import signal
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from layerpipe2 import UserError
from layerpipe2.pipeline import neighbours, shared_memory
from layerpipe2.pipeline.links import Inbox, Outbox, Watch
from layerpipe2.pipeline.messages import message_size, pack
from layerpipe2.pipeline.neighbours import TAGS, Endpoint, Evaluation, Neighbours
from layerpipe2.pipeline.shared_links import SharedInbox, SharedOutbox
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes
from tests.pipeline.fits import (
    ByDevice,
    ByGloo,
    Rows,
    assert_equal,
    dense,
    noise,
    pipelined,
    trainer,
)
from tests.sampling import sampled

SLOTS, AHEAD, DEPTH = 5, 2, 3
CPU = torch.device("cpu")
both = pytest.mark.parametrize("shares", [True, False], ids=["shared memory", "gloo"])
ways = pytest.mark.parametrize("strategy", [PipelineStrategy, ByGloo, ByDevice])


def link(shares, *, expected=None, seconds=20.0, tag=0):
    """This process's end: rank 0 sends, rank 1 receives."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    endpoint = Endpoint(rank, 2, CPU, timedelta(seconds=seconds), Watch(), shares=shares)
    end = endpoint.inbox(-1, tag, slots=SLOTS, ahead=AHEAD) if rank else endpoint.outbox(+1, tag, depth=DEPTH)
    by_memory = shares if expected is None else expected
    assert type(end) is ((SharedOutbox, SharedInbox) if by_memory else (Outbox, Inbox))[rank]
    if rank:
        end.expect(10**6)
    return end


def message(number):
    return [torch.full((7, 9), float(number)).T, torch.arange(4 - number % 5)]


def exchange(end, count):
    """What the receiver finds; in every message the sender's, and in those before that are still valid, too."""
    kept, right = [], []
    for number in range(count):
        if dist.get_rank() == 0:
            end.send(*message(number))
            continue
        kept.append(end.receive())
        valid = range(max(0, number - (SLOTS - AHEAD) + 1), number + 1)
        right.append(all(torch.equal(a, b) for n in valid for a, b in zip(kept[n], message(n), strict=True)))
    return right


@both
def test_messages_come_in_order_stay_as_long_as_they_are_read_and_may_shrink_not_grow(shares):
    refusal, (right, received) = processes.run(_many_and_shrinking, 2, shares)
    assert right == [True] * 40
    assert received == [500, 3, 500]
    assert re.match("a mini-batch needs .* may shrink, not grow", refusal)


def _many(shares, expected=None):
    end = link(shares, expected=expected)
    found = exchange(end, 40)
    if dist.get_rank() == 0:
        end.flush()
    dist.barrier()
    return found


def _many_and_shrinking(shares):
    right, sizes = _many(shares), (500, 3, 500)
    end = link(shares, tag=1)
    if dist.get_rank():
        found = right, [len(end.receive()[0]) for _ in sizes]
    else:
        for size in sizes:
            end.send(torch.ones(size))
        with pytest.raises(UserError) as refused:
            end.send(torch.ones(1000))
        end.flush()
        found = str(refused.value)
    dist.barrier()
    return found


def patched_os(**functions):
    shared_memory.os = SimpleNamespace(**vars(os) | functions)


def too_many_files(*_):
    raise OSError(errno.EMFILE, "Too many open files")


UNREACHABLE = {
    "another network": lambda rank: setattr(shared_memory, "_network", lambda: (7, rank)),
    "another process has the number": lambda rank: patched_os(getpid=os.getppid),
    "no access": lambda rank: patched_os(readlink=too_many_files),
    "no files left": lambda rank: patched_os(memfd_create=too_many_files),
    "no Linux": lambda rank: delattr(os, "memfd_create"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_where_memory_cannot_be_shared_messages_go_by_gloo(case):
    assert processes.run(_unreachable, 2, case)[1] == [True] * 40


def _unreachable(case):
    UNREACHABLE[case](int(os.environ["RANK"]))
    return _many(True, expected=False)


def test_only_the_memory_that_was_offered_is_taken():
    with ExitStack() as closing:
        memory, _, given = shared_memory.make_ends(closing)
        offer = shared_memory.make_offer(memory, given, DEPTH)
        open_files = len(os.listdir("/proc/self/fd"))
        assert shared_memory.open_ends([*offer[:-1], offer[-1] ^ 1]) is None
        assert len(os.listdir("/proc/self/fd")) == open_files
        for end in shared_memory.open_ends(offer):
            os.close(end)
        assert os.fstat(memory).st_mode & 0o777 == 0o600


FAULTS = [(kind, rank, shares) for kind in ("kill", "stop") for rank in (0, 1) for shares in (True, False)]


@pytest.mark.parametrize(("kind", "failed", "shares"), sampled(FAULTS, FAULTS[2::4]))
def test_a_lost_neighbour_is_told_in_one_line(kind, failed, shares, tmp_path):
    resume = failed if kind == "stop" else None
    found = processes.ends(_loses, 2, tmp_path, kind, failed, shares, resume=resume)
    assert found[failed][0] == (-9 if kind == "kill" else 3)
    code, said = found[1 - failed]
    assert (code, said.count("\n")) == (2, 1), said
    cause = "" if not shares else "closed it|Broken pipe" if kind == "kill" else "no answer for 2 s"
    assert re.match(f"layerpipe2: error: a transfer failed: .*({cause})", said), said


def _loses(kind, failed, shares):
    end = link(shares, seconds=2.0)
    exchange(end, 4)
    if dist.get_rank() == failed:
        os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        os._exit(3)
    exchange(end, 100)


def test_the_watch_knows_who_is_waited_for():
    assert processes.run(_waits, 2)[1] == [0, None]


def _waits():
    watch, end = Watch(), link(True)
    heard, end.watch = [], watch

    def waiting(peer):
        heard.append(peer)
        if peer is not None:
            dist.barrier()  # the sender goes on once it is waited for

    if dist.get_rank() == 0:
        dist.barrier()
    else:
        watch.waiting = waiting
    exchange(end, 1)
    dist.barrier()
    return heard


@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1)], ids=str)
def test_nothing_is_left_after_kill_9(killed, tmp_path):
    name = f"layerpipe2-test-{os.getpid()}-{len(killed)}{killed[0]}"
    found = processes.ends(_is_killed, 2, tmp_path, name, killed)
    assert [code for code, _ in found] == [-9 if rank in killed else 2 for rank in range(2)], found
    assert not [path for path in traces() if name in path]


def _is_killed(name, killed):
    shared_memory._NAME = name
    end = link(True)
    exchange(end, 4)
    assert len([trace for trace in traces(os.getpid()) if name in trace]) >= 2  # mapped, and open
    dist.barrier()
    if dist.get_rank() in killed:
        os.kill(os.getpid(), signal.SIGKILL)
    exchange(end, 100)


def traces(process="[0-9]*"):
    """Where shared memory or a socket could be found: names of files, sockets, and what processes have open or map."""
    yield from os.listdir("/dev/shm")
    yield from os.listdir(tempfile.gettempdir())
    yield from Path("/proc/net/unix").read_text().splitlines()
    for place in Path("/proc").glob(f"{process}/fd"):
        try:
            yield from (os.readlink(file) for file in place.iterdir())
            yield from (place.parent / "maps").read_text().splitlines()
        except OSError:  # it has ended
            continue


class StopEarly(pl.Callback):
    """As ``EarlyStopping`` does: nobody knew it before."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


@ways
def test_training_that_was_stopped_leaves_nothing_to_the_next(strategy):
    assert_equal(_twice, 3, strategy=strategy)


def _twice(strategy):
    rows = Rows()
    for callbacks in ([StopEarly()], [rows]):
        torch.manual_seed(0)
        module = pipelined(dense(), delays=(7, 2, 0))
        trainer(strategy and type(strategy)(timeout_s=20), callbacks).fit(module, noise(), noise())
    return rows.rows, module


def test_a_type_that_cannot_travel_is_refused():
    names = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool")
    known = ", ".join(f"torch.{name}" for name in names)
    tensors = [torch.zeros(2), torch.zeros(2, dtype=torch.complex64)]
    with pytest.raises(UserError) as error:
        pack(tensors, torch.empty(message_size(tensors), dtype=torch.uint8))
    assert str(error.value) == f"a tensor of type torch.complex64 can't travel between processes; use one of {known}"


def test_communicators_are_closed_before_the_process_ends():
    assert processes.run(_communicators, 2) == [(TAGS, 0, False)] * 2


def _communicators():
    """How many one process has, how many at its end, and whether torch.distributed is still there."""
    atexit._clear()  # what the parent has registered is the parent's
    dist.init_process_group("gloo")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    Endpoint(rank, world, torch.device("cpu"), timedelta(seconds=20), Watch(), backend="gloo")
    made = len(neighbours._groups["gloo"])
    atexit._run_exitfuncs()
    return made, len(neighbours._groups), dist.is_initialized()


class Asked(Endpoint):
    """Remembers how inboxes were asked for, and makes no links."""

    def inbox(self, direction, tag, **options):
        self.options = [*getattr(self, "options", []), options]

    def outbox(self, direction, tag, *, depth):
        pass


def test_one_buffer_for_what_is_read_beside_those_that_are_filled():
    # With less, transfers between GPUs would overwrite what kernels still read: a CPU has no such kernels.
    endpoint = Asked(1, 3, torch.device("cpu"), timedelta(seconds=20), Watch())
    Evaluation(endpoint).pass_on("val", {}, [torch.zeros(1)])
    Neighbours.of(endpoint, [4, 2, 0], 1, 1)
    evaluation, activations, gradients = endpoint.options
    assert evaluation["slots"] == evaluation["ahead"] + 1
    assert gradients["slots"] == gradients["ahead"] + 1
    assert activations["slots"] > activations["ahead"] + 2  # which are read again two steps later
