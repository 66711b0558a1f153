"""Several processes train as the simulator does, bit for bit: strategies, networks, delays, ways of the messages."""

from functools import partial

import pytest
import torch
import torch.distributed as dist

from experiments.field.prediction import SpecTrain
from layerpipe2 import STRATEGIES, UserError
from tests.pipeline import processes
from tests.pipeline.fits import (
    NETWORKS,
    ByDevice,
    ByGloo,
    Case,
    assert_all_equal,
    decay,
    dense,
    fit,
    in_process,
    noise,
    pipelined,
)
from tests.sampling import slow

LAWS = ("layerpipe2", "pipedream")
NAMES = [*(name for name in STRATEGIES if name != "sequential"), "ema-span-raw"]
SPLIT, AGAIN = {"split_backward": True}, {"recompute_activations": True}
DOUBLE = {"dtype": torch.float64, "options": {"precision": "64-true"}}
SPLITTING = ("stash", "latest", "ema-span", "pair")
BY_OTHER_WAYS = [Case("stash"), Case("pair", drain=True), Case(delays=(9, 2, 2, 0))]
SHORT = {"limit_train_batches": 3}


def accumulated(strategy, a, delays=None, **options):
    """Make work that trains four epochs of six mini-batches; its validation data, five, are no multiple of ``a``."""
    how = {"scheduler": decay, "scheduler_interval": "step", "gradient_clip_norm": 0.5, "accumulate": a, **options}
    make = lambda: pipelined(dense(), strategy, delays, **how)  # noqa: E731
    return partial(fit, make, data=partial(noise, size=48), validation=noise, max_epochs=4)


QUICK = {
    1: [Case("pair")],
    2: [
        Case("ema-span", **DOUBLE),
        Case("ema-span", "pipedream", network="spiking-cnn", optimizer="small steps"),
        Case("pair", "pipedream", drain=True),
        Case("ema-span-raw", optimizer="adamw"),
        Case("stash", delays=(5, 5, 1, 1)),
        (Case(options=SHORT), {"stages_per_process": [1, 3]}),
        (Case("pair", network="residual"), SPLIT),
        (Case("stash", network="transformer", drain=True), SPLIT | AGAIN),
        (Case("stash", delays=(5, 5, 1, 1)), AGAIN),  # with the loss in flight
        (Case("stash", delays=(12, 7, 2, 0), network="residual"), AGAIN),  # in flight for two epochs
        accumulated("ema-span", 2, (7, 3, 0))(),
        accumulated("pair", 2, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))(),
        accumulated(SpecTrain(), 3)(),
    ],
    3: [Case("pair"), Case("ema-lsq", network="residual"), Case("ema-lsq", network="transformer")],
    4: [
        Case("stash"),
        Case("latest", "pipedream"),
        Case(convention="pipedream"),
        Case("ema-span-raw"),
        (Case("stash", "pipedream", clip=0.1), AGAIN),
        (Case("ema-span", "pipedream", options={"val_check_interval": 2}), {"strategy": ByDevice}),
        (Case("ema-span", "pipedream", options={"val_check_interval": 2}), {"strategy": ByGloo}),
    ],
}
"""Processes -> what they train, one after the other."""
SLOW = {
    1: [Case("stash")],
    2: [
        *(Case(name, **DOUBLE) for name in ("stash", "latest", "pair")),
        *(
            Case(name, law, network=network, optimizer="small steps")
            for network in NETWORKS
            for name in NAMES
            for law in LAWS
            if network.startswith("spiking")
        ),
        *(Case(drain=True), Case(clip=0.1), Case(convention="none"), Case(delays=(9, 2, 2, 0))),
        Case(options={"max_steps": 7}),
        *((Case(name, network=n), SPLIT) for n in ("dense", "residual", "transformer") for name in SPLITTING),
        (Case("stash", network="spiking-cnn", optimizer="small steps"), AGAIN),
        *(accumulated("stash", 3)(), accumulated("latest", 6)(), accumulated("ema-0.9", 3, drain=True)()),
    ],
    3: [
        *(Case("stash"), Case("stash", network="residual"), Case("stash", network="transformer")),
        (Case("stash"), {"strategy": ByDevice} | AGAIN),
    ],
    4: [
        *(Case(name, law) for name in NAMES for law in LAWS),
        *((case, {"strategy": way}) for case in BY_OTHER_WAYS for way in (ByDevice, ByGloo)),
    ],
}


@pytest.mark.parametrize(
    ("world", "rows"),
    [pytest.param(world, rows, id=f"{world} processes") for world, rows in QUICK.items()]
    + [pytest.param(world, rows, id=f"{world} processes, the rest", marks=slow) for world, rows in SLOW.items()],
)
def test_the_processes_train_as_the_simulator_does(world, rows):
    assert_all_equal({f"{number}: {row}": row for number, row in enumerate(rows)}, world)


def test_no_step_waits_for_all_processes():
    """A collective operation in every step would take turns where a pipeline works side by side."""
    few, many = (processes.run(_collectives, 2, Case(options={"limit_train_batches": n})) for n in (2, 5))
    assert few == many


def _collectives(case):
    calls = []
    for name in ("broadcast", "all_reduce", "barrier", "all_gather"):
        original = getattr(dist, name)
        setattr(dist, name, lambda *a, original=original, name=name, **k: (calls.append(name), original(*a, **k))[1])
    in_process(case)
    return calls


def test_without_a_launcher():
    with pytest.raises(UserError, match="needs a launcher; start the script with"):
        in_process(Case())
