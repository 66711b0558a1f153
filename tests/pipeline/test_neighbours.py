"""What a process asks of its links to the neighbours, and what it leaves behind."""

import atexit
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from layerpipe2.pipeline import neighbours
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import TAGS, Endpoint, Evaluation, Neighbours
from tests.pipeline import processes


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
