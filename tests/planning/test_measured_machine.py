"""What measures a machine: fresh processes that form a group, and what follows from their numbers."""

import os

import pytest
import torch
import torch.distributed as dist

from layerpipe2.errors import UserError
from layerpipe2.planning import Link
from layerpipe2.planning.machine import Machine, copy_rate, measured_link, side_by_side
from tests.sampling import slow


def whoami(word):
    return word, dist.get_rank(), dist.get_world_size(), torch.get_num_threads()


def die():
    os._exit(1)


@slow
def test_processes_side_by_side_measure_this_machine():
    with side_by_side(2) as run:
        assert run(whoami, 2, "a") == [("a", 0, 2, 1), ("a", 1, 2, 1)]
        found = Machine.measured(2, run)
        assert found.link == found.local
        assert 1e7 < found.together < 1e13
        assert found.crowding >= 1
        with pytest.raises(UserError, match="a process that measured this machine was killed"):
            run(die, 2)


def test_the_link_is_the_difference_of_two_large_messages_and_the_time_of_a_small_one():
    def run(work, ranks, sizes):
        return [[2 * (0.001 + size / 2**20) for size in sizes]] * ranks

    found = measured_link(run)
    assert found.bandwidth == pytest.approx(2**20)
    assert found.latency == pytest.approx(0.001 + 2**10 / 2**20)


def test_the_least_rate_of_all_counts():
    def run(work, ranks, *arguments):
        return [2e9, 1e9][:ranks] if work is copy_rate else [[2e-4, 2e-3, 5e-3]]

    found = Machine.measured(2, run)
    assert (found.alone, found.together, found.crowding) == (2e9, 1e9, 2)
    assert found.with_link(Link(1e6)).wire.bandwidth < 1e6 * 1.01
