"""Layers: time beside the batch, nothing kept between batches, and one way for a constant input."""

import pytest
import torch
from torch import nn

from layerpipe2.errors import UserError
from layerpipe2.lab.networks import NETWORKS, build
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_units
from layerpipe2.spiking import CODINGS, READOUTS, Coded, Neuron, Neurons, Readout, unrolled
from layerpipe2.spiking.layers import spiking

SPIKING = [name for name, row in NETWORKS.items() if row.kind == "spiking"]


def network(name, seed=0, width=8, **spiking):
    torch.manual_seed(seed)
    return nn.Sequential(*build(name, input_shape=(1, 8, 8), num_classes=5, width=width, spiking=spiking)).double()


def images(count=4):
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SPIKING)
def test_units_hand_on_spikes_and_keep_nothing_between_batches(name):
    net = network(name).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first, x = net(images()), images()
    for unit in net[:-1]:
        x = unit(x)
        assert len(x) == 16
        assert set(x.unique().tolist()) <= {0, 1}
    net(torch.rand(4, 1, 8, 8, dtype=torch.float64))
    assert torch.equal(net(images()), first)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", SPIKING)
@pytest.mark.parametrize("readout", READOUTS)
def test_samples_do_not_see_each_other(name, readout):
    net = network(name, readout=readout).eval()  # batch normalisation apart, which does not while it evaluates
    torch.testing.assert_close(net(images())[2:3], net(images()[2:3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_whole_network_equals_unrolled_autograd(coding):
    results = []
    for run in (None, unrolled):
        net = network("spiking-mlp", width=32, coding=coding, synapse_decay=0.3, seed=3)
        for part in net.modules():
            if isinstance(part, Neurons) and run:
                part.run = run
        net(images()).square().sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert results[0].abs().max() > 0
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_a_constant_input_is_the_static_code():
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 8), images().float()
    constant = Neurons(Neuron(), 3, constant=True)(layer(x.flatten(1)))
    coded = Neurons(Neuron(), 3)(layer(Coded("static", 3)(x).flatten(1)))
    assert torch.equal(constant, coded)
    assert constant.any()


def test_the_seed_of_a_run_is_that_of_its_coding():
    config = RunConfig(network="spiking-mlp", coding="rate", seed=5, time_steps=3)
    coded = make_units(config, (1, 8, 8), 10)[0][0]
    assert (coded.coding, coded.seed, coded.steps) == ("rate", 5, 3)
    assert not torch.equal(coded(images()), Coded("rate", 3, seed=6)(images()))


def test_read_outs_are_what_they_are_called():
    layer, neuron = nn.Linear(2, 2, bias=False), Neuron(membrane_decay=0.5)
    nn.init.eye_(layer.weight)
    spikes = torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 1]])  # four steps of one sample
    assert Readout(layer, neuron, 4, "rate")(spikes).tolist() == [[0.25, 0.5]]
    # membranes: 1, 0.5, 0.25, 0.125 and 0, 0, 1, 1.5
    assert Readout(layer, neuron, 4, "membrane")(spikes).tolist() == [[0.46875, 0.625]]


def test_every_relu_becomes_neurons_however_often_it_is_used():
    relu = nn.ReLU()
    unit = spiking(nn.Sequential(nn.Linear(2, 2), relu, nn.Sequential(relu), relu), lambda: Neurons(Neuron(), 2))
    assert [type(part) for part in unit] == [nn.Linear, Neurons, nn.Sequential, Neurons]
    assert isinstance(unit[2][0], Neurons)
    assert isinstance(spiking(relu, lambda: Neurons(Neuron(), 2)), Neurons)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neurons(Neuron(), 0), "time_steps is 0; give an integer from 1"),
        (lambda: Coded("rate", 0), "time_steps is 0; give an integer from 1"),
        (lambda: Coded("rate", 3)(torch.ones(1, 1, 2, 2, dtype=torch.uint8)), "of torch.uint8; give a floating-point"),
        (lambda: Coded("columns", 4)(torch.ones(1, 1, 2, 8)), "images of 8 columns for 4 time steps"),
        (lambda: Coded("rat", 3), "unknown coding 'rat'; did you mean 'rate'"),
        (lambda: Readout(nn.Linear(2, 2), Neuron(), 3, "rates"), "unknown readout 'rates'; did you mean 'rate'"),
        (lambda: Neurons(Neuron(), 3)(torch.zeros(4, 2)), r"neurons of 3 time steps are given \[4, 2\]"),
        (lambda: Readout(nn.Linear(2, 2), Neuron(), 3)(torch.zeros(4, 2)), "of 3 time steps are given"),
    ],
)
def test_wrong_shapes_and_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
