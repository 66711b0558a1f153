"""Normalised neurons and pooled spikes: the bits of plain modules, and less kept for the backward pass."""

import pytest
import torch
from torch import nn

from experiments.benchmarks.spiking import kept_bytes, plain_copy
from layerpipe2.lab.networks import build
from layerpipe2.spiking import RESETS, Neuron, Neurons, fire
from layerpipe2.spiking.layers import Normalised, spiking
from layerpipe2.spiking.lean import SpikePool


def network(**settings):
    torch.manual_seed(0)
    return nn.Sequential(*build("spiking-cnn", input_shape=(1, 14, 14), num_classes=5, width=4, spiking=settings))


def plain(net):
    """The same network of separate modules; neurons run by another function than ``fire`` aren't fused."""
    return plain_copy(net, lambda neuron, x: fire(neuron, x))


def outcome(net, x):
    """Everything that a training step leaves behind, with a second backward pass over the same graph."""
    y = net(x)
    for _ in range(2):
        y.square().sum().backward(retain_graph=True)
    return [y, *(p.grad for p in net.parameters()), *net.state_dict().values()]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("settings", [{"coding": "rate", "synapse_decay": 0.3}, {"time_steps": 1}])
def test_training_leaves_the_bits_of_plain_modules(reset, dtype, settings):
    net, x = network(reset=reset, **settings).to(dtype), torch.randn(3, 1, 14, 14).to(dtype)
    kinds = [type(part) for part in net.modules()]
    assert (kinds.count(Normalised), kinds.count(SpikePool)) == (8, 3)
    expected, found = outcome(plain(net), x), outcome(net, x)
    assert all(map(torch.equal, found, expected))
    assert next(net.parameters()).grad.any()


def test_a_frozen_normalisation_gives_the_bits_of_plain_modules():
    net, x = network().eval(), torch.randn(3, 1, 14, 14)
    assert all(map(torch.equal, outcome(plain(net), x), outcome(net, x)))


@pytest.mark.parametrize("reset", RESETS)
def test_half_the_memory_of_unrolled_autograd_is_enough(reset):
    torch.manual_seed(0)
    settings = {"time_steps": 16, "reset": reset}
    net = nn.Sequential(*build("spiking-cnn", input_shape=(1, 28, 28), num_classes=10, spiking=settings))
    x = torch.randn(2, 1, 28, 28)
    assert kept_bytes(net, x) <= kept_bytes(plain_copy(net), x) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (2, 2, 7, 5), (1, 1, 256, 130)])
@pytest.mark.parametrize("rate", [0, 0.1, 0.6])
def test_pooled_spikes_are_those_of_max_pooling(dtype, shape, rate):
    spikes = (torch.rand(shape) < rate).to(dtype).requires_grad_()
    pooled, expected = SpikePool()(spikes), nn.MaxPool2d(2)(spikes)
    assert torch.equal(pooled, expected)
    assert pooled.dtype == dtype
    gradient = torch.randn_like(pooled)
    found, wanted = (torch.autograd.grad(y, spikes, gradient)[0] for y in (pooled, expected))
    assert torch.equal(found, wanted)


def test_only_the_pooling_of_spikes_is_replaced():
    unit = spiking(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), lambda: Neurons(Neuron(), 2))
    assert isinstance(unit[1], SpikePool)
    for layers in ((nn.ReLU(), nn.MaxPool2d(3)), (nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.ReLU())):
        unit = spiking(nn.Sequential(*layers), lambda: Neurons(Neuron(), 2))
        assert SpikePool not in map(type, unit)
