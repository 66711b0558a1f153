"""Partitions, and the table of delay laws: laws, grids and refusals."""

import bisect
import re

import pytest
import torch
from torch import nn

from layerpipe2 import Delays, UserError, partition
from layerpipe2.delays import DELAY_LAWS
from layerpipe2.stages import partition_at


@pytest.mark.parametrize("layers", range(1, 12))
def test_partition_keeps_order_and_fills_all_stages_but_the_last(layers):
    units = [nn.Linear(1, 1) for _ in range(layers)]
    for group_size in range(1, layers + 1):
        stages = partition(units, group_size)
        assert [unit for stage in stages for unit in stage] == units
        assert all(len(stage) == group_size for stage in stages[:-1])
        assert 1 <= len(stages[-1]) <= group_size


@pytest.mark.parametrize("group_size", [0, -1, 4, 1.0, True, "2"])
def test_group_sizes_out_of_range(group_size):
    with pytest.raises(UserError, match=r"group size for 3 units is .*; give an integer from 1 to 3"):
        partition([nn.Linear(1, 1)] * 3, group_size)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "no units"),
        (None, "network is None; give a list of modules"),
        (torch.ones(2), r"network is tensor\(\[1\., 1\.\]\); give a list of modules"),
        (5, "network is 5; give a list of modules"),
        ([nn.Linear(1, 1), "relu"], "unit 1 of the network is 'relu'; give a module"),
    ],
)
def test_what_is_no_list_of_units(units, message):
    for cut in (lambda: partition(units, 1), lambda: partition_at(units, [0])):
        with pytest.raises(UserError, match=message):
            cut()


@pytest.mark.parametrize("stages", range(1, 20))
def test_delay_laws(stages):
    downstream = [stages - 1 - k for k in range(stages)]
    assert Delays.layerpipe2(stages).per_stage == tuple(2 * s for s in downstream)
    assert Delays.pipedream(stages).per_stage == tuple(downstream)
    assert Delays.none(stages).per_stage == (0,) * stages


@pytest.mark.parametrize("name", DELAY_LAWS)
def test_a_law_gives_delays_that_a_pipeline_can_have(name):
    law = DELAY_LAWS[name]
    assert law.name == name
    assert law.label.strip() == law.label != ""
    assert len({other.label for other in DELAY_LAWS.values()}) == len(DELAY_LAWS)
    for stages in range(1, 20):
        delays = Delays.by_law(name, stages)
        assert (delays.per_stage, delays.convention) == (law.delays(stages), name)
        assert delays.num_stages == stages
        assert delays.is_realizable
        assert delays == Delays(law.delays(stages), name)


@pytest.mark.parametrize("convention", DELAY_LAWS)
def test_the_clock_is_a_legal_execution_that_gives_the_delays(convention):
    """Each forward follows the previous stage's, each backward the next stage's; the reads give back the delays."""
    delays = Delays.by_law(convention, 4)
    head, *lines = delays.grid(80).splitlines()
    ends = [column.end() for column in re.finditer(r"\d+", head)]
    parts = ((k, part) for k, line in enumerate(lines) for part in re.finditer(r"[FB]\d+", line))
    when = {(k, part[0]): (bisect.bisect_left(ends, part.end()), part.start()) for k, part in parts}
    for batch in range(6):
        for k in range(3):
            assert when[k, f"F{batch}"] < when[k + 1, f"F{batch}"]
            assert when[k + 1, f"B{batch}"] < when[k, f"B{batch}"]
        for k in range(4):
            updates = sum(when[k, f"B{b}"] < when[k, f"F{batch}"] for b in range(6))
            assert updates == max(0, batch - delays.per_stage[k])


def test_the_last_stage_turns_within_a_tick_or_in_the_next_one():
    assert {name: law.turn for name, law in DELAY_LAWS.items()} == {"layerpipe2": 0, "pipedream": 1, "none": 1}


def test_realizable():
    assert Delays.custom([4, 4, 0]).is_realizable
    assert not Delays.custom([0, 1]).is_realizable


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delays.custom([]), "no stages"),
        (lambda: Delays.custom([2, -1]), "delay of stage 1 is -1"),
        (lambda: Delays.custom([2, 0.5]), "delay of stage 1 is 0.5"),
        (lambda: Delays.layerpipe2(0), "number of stages is 0"),
        (lambda: Delays((2, 0), "gpipe"), "unknown delay law 'gpipe'"),
        (lambda: Delays.by_law("gpipe", 2), "unknown delay law 'gpipe'; known: layerpipe2, pipedream"),
        (lambda: Delays.custom(5), "delays are 5; give a list of integers, one per stage"),
        (lambda: Delays(5), "delays are 5; give a list"),
        (lambda: Delays.custom("20"), "delay of stage 0 is '2'"),
        (lambda: Delays.custom([10**20]), "delay of stage 0 is 100000000000000000000; give an integer from 0 to 10000"),
        (lambda: Delays.by_law([], 3), r"unknown delay law \[\]; known: layerpipe2"),
        (lambda: Delays.by_law(None, 3), "unknown delay law None"),
        (lambda: Delays.layerpipe2(10**12), "number of stages is 1000000000000; give an integer from 1 to 5000"),
        (lambda: Delays.layerpipe2(2).grid(10**9), "number of columns is 1000000000; give an integer from 1 to 10000"),
        (lambda: Delays((1, 0), "layerpipe2"), r"delays \[1, 0\] are not those of 'layerpipe2'"),
    ],
)
def test_bad_delays(make, message):
    with pytest.raises(UserError, match=message):
        make()
