"""Time models: against SCALE-Sim's cycles, and refusing what they cannot know."""

import csv
from pathlib import Path

import pytest
from torch import nn

from layerpipe2.errors import UserError
from layerpipe2.planning import FlopDevice, Gemm, Link, SystolicArray, Work, measure


def test_cycles_equal_those_of_scalesim():
    lines = Path(__file__).with_name("scalesim_cycles.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == 96
    for row in rows:
        m, n, k = (int(row[key]) for key in "mnk")
        array = SystolicArray(int(row["rows"]), int(row["columns"]), row["dataflow"])
        assert array.cycles(Gemm(m, n, k)) == int(row["cycles"]), row


def test_no_array_is_faster_than_its_cells():
    for dataflow in ("os", "ws", "is"):
        array = SystolicArray(16, 8, dataflow, clock=1.0)
        for gemm in (Gemm(64, 64, 64), Gemm(5, 100, 7, count=3)):
            assert array.seconds(Work(gemm.flops, (gemm,))) >= gemm.flops / (2 * 16 * 8)


def test_unknown_shapes_are_refused_by_arrays_only():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x.transpose(1, 2)

    (work,) = measure([Product()], (4, 4), 2)
    assert FlopDevice(1.0).seconds(work.forward) == 2 * 2 * 4 * 4 * 4
    with pytest.raises(UserError, match=r"come from no Linear or Conv layer.*FlopDevice"):
        SystolicArray().seconds(work.forward)


def test_link_takes_bytes_over_bandwidth():
    device = FlopDevice(1.0, Link(4.0, 3.0))
    assert (device.occupation(8), device.latency) == (2.0, 3.0)
