"""Several processes train as the simulator does, bit for bit."""

import pytest
import torch
import torch.distributed as dist

from layerpipe2 import STRATEGIES, UserError
from tests.pipeline import processes
from tests.pipeline.fits import NETWORKS, Case, assert_equal, in_process
from tests.sampling import sampled

SPIKING = [name for name in NETWORKS if name.startswith("spiking")]
STRATEGY_NAMES = [*(name for name in STRATEGIES if name != "sequential"), "ema-span-raw"]


@pytest.mark.parametrize(
    ("strategy", "convention"),
    sampled(
        [(name, law) for law in ("layerpipe2", "pipedream") for name in STRATEGY_NAMES],
        [("stash", "layerpipe2"), ("latest", "pipedream"), ("ema-window", "pipedream"), ("ema-span-raw", "layerpipe2")],
    ),
)
def test_every_strategy(strategy, convention):
    assert_equal(Case(strategy, convention), 4)


@pytest.mark.parametrize("world", sampled([1, 2, 3], [1, 3]))
@pytest.mark.parametrize("strategy", sampled(["stash", "pair"], ["pair"]))
def test_several_stages_in_a_process(strategy, world):
    assert_equal(Case(strategy), world)


@pytest.mark.parametrize("strategy", sampled(["stash", "latest", "ema-span", "pair"], ["ema-span"]))
def test_double_precision(strategy):
    assert_equal(Case(strategy, dtype=torch.float64, options={"precision": "64-true"}), 2)


@pytest.mark.parametrize("network", ["residual", "transformer"])
@pytest.mark.parametrize("strategy", sampled(["stash", "ema-lsq"], ["ema-lsq"]))
def test_networks(network, strategy):
    assert_equal(Case(strategy, network=network), 3)


@pytest.mark.parametrize(
    ("network", "strategy", "convention"),
    sampled(
        [(network, name, law) for network in SPIKING for name in STRATEGY_NAMES for law in ("layerpipe2", "pipedream")],
        [
            ("spiking-cnn", "ema-span", "pipedream"),
            ("spiking-resnet", "pair", "layerpipe2"),
        ],
    ),
)
def test_spiking_networks(network, strategy, convention):
    assert_equal(Case(strategy, convention, network=network, optimizer="small steps"), 2)


MODES = [
    Case(drain=True),
    Case("pair", "pipedream", drain=True),
    Case(clip=0.1),
    Case("ema-span-raw", optimizer="adamw"),
    Case(convention="none"),
    Case("stash", delays=(5, 5, 1, 1)),
    Case(delays=(9, 2, 2, 0)),
    Case(options={"limit_train_batches": 3}),
    Case(options={"max_steps": 7}),
]


@pytest.mark.parametrize("case", sampled(MODES, MODES[1::2]), ids=str)
def test_modes(case):
    assert_equal(case, 2)


def test_uneven_processes():
    assert_equal(Case(), 2, stages_per_process=[1, 3])


@pytest.mark.parametrize("strategy", sampled(["stash", "latest", "ema-span", "pair"], ["stash", "pair"]))
@pytest.mark.parametrize("network", sampled(["dense", "residual", "transformer"], ["residual"]))
def test_split_backward(strategy, network):
    assert_equal(Case(strategy, network=network), 2, split_backward=True)


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
