"""What can't fit into memory is refused beforehand, and the look at it changes nothing."""

import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab import networks
from layerpipe2.lab.runs import memory
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import check_run, make_plan

SHAPE = (1, 8, 8)
SIZE = 64 * 128 + 128 + 7 * (128 * 128 + 128) + 128 * 10 + 10  # parameters of the MLP
HANDED_ON = 64 * (8 * 128 + 10)  # numbers per mini-batch of 64 images


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"strategy": "sequential"}, 4 * (3 * SIZE + HANDED_ON)),  # weights, gradients, momentum
        ({"strategy": "sequential", "momentum": 0}, 4 * (2 * SIZE + HANDED_ON)),
        ({"strategy": "sequential", "optimizer": "adamw", "precision": "float64"}, 8 * (4 * SIZE + HANDED_ON)),
        ({"strategy": "sequential", "precision": "bf16"}, 4 * 3 * SIZE + 2 * HANDED_ON),
        ({"group_size": 9, "convention": "custom", "delays": (1000,)}, 4 * (1003 * SIZE + HANDED_ON)),
    ],
)
def test_a_run_is_refused_from_one_byte_too_many(settings, least, monkeypatch):
    config = RunConfig(device="cpu", **settings)
    check = check_run.__wrapped__  # it keeps what it has answered
    monkeypatch.setattr(memory, "_memory", lambda device: least)
    check(config, SHAPE, 10)
    monkeypatch.setattr(memory, "_memory", lambda device: least - 1)
    with pytest.raises(
        UserError, match=r"network mlp of width 128, batch_size 64 and delays of up to \d+ updates need"
    ):
        check(config, SHAPE, 10)


def test_of_several_processes_each_holds_the_weights(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(memory, "_memory", lambda device: 4 * SIZE)
    check_run.__wrapped__(RunConfig(device="cpu"), SHAPE, 10)


def test_memory_is_that_of_the_container_or_the_machine(monkeypatch, tmp_path):
    found, cpu = memory._memory.__wrapped__, torch.device("cpu")
    monkeypatch.setattr(memory, "_LIMIT", tmp_path / "memory.max")
    machine = found(cpu)
    assert 2**28 < machine < 2**50
    for limit, expected in (("max", machine), (str(10**18), machine), ("1000000", 10**6)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert found(cpu) == expected


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_batch_that_a_unit_cannot_take_is_refused_on_any_default_device(device):
    message = (
        r"unit 6 of network vgg refuses batches of shape \[1, 128, 1, 1\] \(Expected more than 1 value per channel"
    )
    with torch.device(device), pytest.raises(UserError, match=message):
        make_plan(RunConfig(network="vgg", batch_size=1), SHAPE, 10)


@pytest.mark.parametrize("name", ["mlp", "resnet-small", "vit"])
def test_the_weights_are_those_without_the_look(name):
    check_run.cache_clear()
    torch.manual_seed(3)
    plan = make_plan(RunConfig(network=name, width=4), SHAPE, 10)
    torch.manual_seed(3)
    units = networks.build(name, input_shape=SHAPE, num_classes=10, width=4)
    ours, plain = ([p for m in of for p in m.parameters()] for of in (plan.stages, units))
    assert all(map(torch.equal, ours, plain))
