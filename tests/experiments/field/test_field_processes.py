"""Rows of the field in two processes, and over a resume: bit for bit."""

from functools import partial

import pytest

from experiments.field.rows import OPTIMIZERS, ROWS
from layerpipe2 import make_strategy
from tests.experiments.field.test_field_rows import CASES, JOINED, RATES
from tests.pipeline.fits import (
    assert_all_equal,
    assert_same_weights,
    decay,
    dense,
    fit,
    noise,
    pipelined,
    resumed_equals_whole,
    run,
)
from tests.sampling import slow

STAGES = 3
"""Of the network ``dense``."""


def work(name, optimizer, **options):
    """How a row is trained: three epochs of six mini-batches."""
    case = (CASES | JOINED).get(name)
    written = name if case is None else case.name.replace("xpipe-6", f"xpipe-{STAGES}")
    each = 1 if case is None else case.accumulate
    row = ROWS.get(name)
    delays = row.delays(STAGES, each).per_stage if row and row.delays else None
    law = "pipedream" if name == "xpipe" else "layerpipe2"
    made = partial(OPTIMIZERS[optimizer], lr=RATES[optimizer])
    how = {"optimizer": made, "scheduler": decay, "scheduler_interval": "step", "accumulate": each}
    make = lambda: pipelined(dense(), make_strategy(written), delays, law, **how)  # noqa: E731
    return partial(fit, make, data=partial(noise, size=48), validation=noise, max_epochs=3, **options)


EVERY = {name: row.optimizers[0] for name, row in ROWS.items()} | dict.fromkeys(JOINED, "sgd")
OTHERS = {f"{name}, {optimizer}": (name, optimizer) for name, row in ROWS.items() for optimizer in row.optimizers[1:]}


def test_two_processes_train_every_row_as_the_simulator_does():
    assert_all_equal({name: work(name, optimizer)() for name, optimizer in EVERY.items()}, 2)


@slow
def test_two_processes_train_every_row_with_the_other_optimizers_as_well():
    assert_all_equal({text: work(*one)() for text, one in OTHERS.items()}, 2)


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_row_goes_on(name, tmp_path):
    make = work(name, EVERY[name])
    rows, whole = run(make(folder=tmp_path))
    again, weights = run(make(folder=tmp_path, resume=tmp_path / "epoch=1.ckpt"))
    assert again[-1] == rows[-1]
    assert_same_weights(weights, whole)


@slow
@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_row_goes_on_in_other_processes(name, tmp_path):
    resumed_equals_whole(tmp_path, work(name, EVERY[name]), 2, 1)
