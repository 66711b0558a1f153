"""The backward pass really uses the recalled weights, in every layer, precision and mode, or it says so."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from layerpipe2 import Delays, make_strategy
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.lab.networks.layers import conv_bn_relu
from layerpipe2.spiking import Neuron, Neurons, Readout
from layerpipe2.spiking.layers import spiking
from layerpipe2.strategies.latest import Latest
from tests.engine.training import load, optimizer_of


@dataclass(frozen=True)
class Tenfold(Latest):
    """Recalls ten times the latest weights: no backward pass that uses them can look like one that doesn't."""

    factor: float = 10.0

    def backward(self, state, latest, used):
        return self.factor * latest


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class OneStepGRU(nn.Module):
    """One time step from a zero state: the input's gradient is linear in the input weights."""

    def __init__(self):
        super().__init__()
        self.inner = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.inner(x)[0]


def spiking_convolution():
    """Convolution and normalisation, both on the way."""
    return spiking(nn.Sequential(conv_bn_relu(4, 4), nn.MaxPool2d(2)), lambda: Neurons(Neuron(threshold=0.1), 2))


# layer, input shape, how the input gradient grows with ten times the weights (attention: two matrices on each path)
LAYERS = {
    "linear": (lambda: nn.Linear(8, 8), (4, 8), 10),
    "linear-3d": (lambda: nn.Linear(8, 8, bias=False), (4, 3, 8), 10),
    "conv": (lambda: nn.Conv2d(4, 4, 3, padding=1), (2, 4, 6, 6), 10),
    "conv-grouped": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 6, 6), 10),
    "conv-transposed": (lambda: nn.ConvTranspose2d(4, 4, 2, 2), (2, 4, 6, 6), 10),
    "batchnorm": (lambda: nn.BatchNorm2d(4), (2, 4, 6, 6), 10),
    "layernorm": (lambda: nn.LayerNorm(8), (4, 8), 10),
    "groupnorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 6, 6), 10),
    "gru": (OneStepGRU, (4, 1, 8), 10),
    "attention": (Attention, (2, 5, 8), 100),
    "spiking": (lambda: nn.Sequential(nn.Linear(8, 8), Neurons(Neuron(threshold=0.1), 2)), (6, 8), 10),
    "spiking-conv": (spiking_convolution, (6, 4, 6, 6), 100),
    "read-out": (lambda: Readout(nn.Linear(8, 3), Neuron(), 2), (6, 8), 10),
    "two-layers": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), (4, 8), 100),
}
PRECISIONS = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bf16": (torch.float32, torch.bfloat16),
}


class Front(nn.Module):
    """First stage: scales the input, so that its weight's gradient shows the gradient that arrives there."""

    def __init__(self, shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.scale.to(x.dtype) * x


def arriving_gradient(layer, x, history, compute_dtype, probe):
    front = Front(x.shape).to(x)
    engine = PipelineEngine([front, layer], Delays.custom([0, 2]), history, compute_dtype=compute_dtype)
    (load(engine).forward(x) * probe).sum().backward()
    engine.end()
    return front.scale.grad.double()


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_ten_times_the_weights_give_ten_times_the_gradient(name, precision, memory_format, device):
    make, shape, growth = LAYERS[name]
    dtype, compute = PRECISIONS[precision]
    layer, x = make().to(device, dtype), torch.randn(shape, device=device, dtype=dtype) + 0.5
    if memory_format == "channels_last":
        layer = layer.to(memory_format=torch.channels_last)
    with torch.no_grad():
        probe = torch.randn_like(layer(x))
    plain = arriving_gradient(layer, x, make_strategy("latest"), compute, probe)
    tenfold = arriving_gradient(layer, x, Tenfold(), compute, probe)
    assert plain.abs().max() > 0
    tolerance = {"float32": 1e-5, "float64": 1e-12, "bf16": 2e-2}[precision]
    torch.testing.assert_close(tenfold, growth * plain, rtol=0, atol=tolerance * growth * float(plain.abs().max()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_gets_the_gradient_of_the_recalled_weights_behind_it(precision, device):
    dtype, compute = PRECISIONS[precision]
    embedding, linear = nn.Embedding(7, 8).to(device, dtype), nn.Linear(8, 3).to(device, dtype)
    words, gradients = torch.tensor([[1, 2, 6]], device=device), []
    for history in (make_strategy("latest"), Tenfold()):
        engine = PipelineEngine([embedding, linear], Delays.custom([2, 1]), history, compute_dtype=compute)
        load(engine).forward(words).sum().backward()
        engine.end()
        gradients.append(embedding.weight.grad.clone())
        embedding.zero_grad()
        linear.zero_grad()
    torch.testing.assert_close(gradients[1], 10 * gradients[0], rtol=2e-2 if compute else 1e-5, atol=0)


def test_batchnorm_statistics_move_once_per_batch(device):
    stages = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).to(device) for _ in range(3)]
    engine = PipelineEngine(stages, Delays.layerpipe2(3), make_strategy("ema-window"))
    optimizer = optimizer_of(engine)
    for _ in range(5):
        x = torch.randn(4, 8, device=device)
        engine.train_step(x, torch.zeros(4, dtype=torch.int64, device=device), nn.functional.cross_entropy, optimizer)
    assert [int(stage[1].num_batches_tracked) for stage in stages] == [5, 5, 5]


def test_dropout_follows_the_mode_of_the_users_module():
    stages = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), nn.Linear(8, 8)]
    engine = PipelineEngine(stages, Delays.layerpipe2(2), make_strategy("stash"))
    x = torch.randn(4, 8)
    assert not torch.equal(load(engine).forward(x), load(engine).forward(x))
    stages[0].eval()
    assert torch.equal(load(engine).forward(x), load(engine).forward(x))
