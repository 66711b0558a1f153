"""Transformers: what a token may see, and that delayed training reaches every weight."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, make_strategy, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.lab.networks import NETWORKS, build
from tests.sampling import sampled

VOCABULARY, CONTEXT = 11, 6


def gpt(width=8):
    torch.manual_seed(0)
    return build("gpt", input_shape=(CONTEXT,), num_classes=VOCABULARY, width=width)


def tokens(batch=3, seed=1):
    drawn = torch.randint(VOCABULARY, (batch, CONTEXT + 1), generator=torch.Generator().manual_seed(seed))
    return drawn[:, :-1], drawn[:, 1:]


def test_gpt_sees_the_past_and_never_the_future():
    net = nn.Sequential(*gpt()).double()
    x, _ = tokens()
    changed = x.clone()
    changed[:, 3] = (changed[:, 3] + 1) % VOCABULARY
    before, after = net(x), net(changed)
    torch.testing.assert_close(before[..., :3], after[..., :3], rtol=0, atol=1e-12)
    assert all((before[..., t] - after[..., t]).abs().max() > 1e-9 for t in range(3, CONTEXT))


def test_a_shorter_text_than_the_context_is_read_as_its_beginning():
    net = nn.Sequential(*gpt()).double()
    x, _ = tokens()
    torch.testing.assert_close(net(x[:, :4]), net(x)[..., :4], rtol=0, atol=1e-12)


def test_the_small_gpt_has_four_blocks_of_four_heads_whose_residuals_start_small():
    torch.manual_seed(0)
    _, *blocks, _ = build("gpt-small", input_shape=(CONTEXT,), num_classes=VOCABULARY)
    assert [block.heads for block in blocks] == [4] * 4
    spread = torch.cat([block.project.weight.flatten() for block in blocks]).std()
    assert spread.item() == pytest.approx(0.02 / 8**0.5, rel=0.02)


def test_vit_sees_every_patch_and_knows_its_place():
    torch.manual_seed(0)
    net = nn.Sequential(*build("vit", input_shape=(1, 8, 8), num_classes=5, width=16)).double()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0].backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all())
    assert (net(x) - net(x.flip(-1))).abs().max() > 1e-9


@pytest.mark.parametrize("width", [4, 8, 33, 100])
def test_any_width_has_heads(width):
    assert nn.Sequential(*gpt(width))(tokens()[0]).shape == (3, VOCABULARY, CONTEXT)


def batch_for(name):
    if NETWORKS[name].takes == "text":
        return tokens(4)
    torch.manual_seed(2)
    return torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])


def pipeline(name, strategy, dtype):
    torch.manual_seed(3)
    shape = (CONTEXT,) if NETWORKS[name].takes == "text" else (1, 8, 8)
    units = build(name, input_shape=shape, num_classes=VOCABULARY, width=8)
    stages = partition(units, 1)
    return PipelineEngine(stages, Delays.layerpipe2(len(stages)), make_strategy(strategy), compute_dtype=dtype)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("strategy", sampled(["stash", "latest", "ema-span", "pair"], ["latest"]))
@pytest.mark.parametrize("name", NETWORKS)
def test_delayed_training_accepts_and_moves_every_weight(name, strategy, dtype):
    engine = pipeline(name, strategy, dtype)
    parameters = [p for stage in engine.stages for p in stage.parameters()]
    before = copy.deepcopy(parameters)
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    x, y = batch_for(name)
    for _ in range(3):
        engine.train_step(x, y, F.cross_entropy, optimizer)
    still = [tuple(p.shape) for p, old in zip(parameters, before, strict=True) if torch.equal(p, old)]
    assert not still


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_every_matrix_and_norm_of_a_block_is_exchanged(name, dtype):
    engine = pipeline(name, "latest", dtype)
    x, y = batch_for(name)
    parameters = [p for stage in engine.stages for p in stage.parameters()]
    engine.train_step(x, y, F.cross_entropy, torch.optim.SGD(parameters, lr=0.1))
    for k in range(1, len(engine.stages) - 1):  # four matrices and two norms, saved by each of six layers
        assert sum(region.hits for region in engine.placed[k].exchanged) >= 6


@pytest.mark.parametrize("name", ["vit", "gpt", "spiking-mlp", "spiking-cnn", "spiking-resnet"])
def test_recalled_weights_change_the_gradients_of_earlier_stages(name):
    engine = pipeline(name, "latest", None)
    x, y = batch_for(name)
    gradients = []
    for factor in (1.0, 10.0):
        engine.begin()
        loss = F.cross_entropy(engine.forward(x), y)
        for region in engine.placed[4].exchanged:
            region.recalled = factor * region.recalled()
        loss.backward()
        engine.end()
        gradients.append([torch.cat([p.grad.flatten() for p in engine.stages[k].parameters()]) for k in (3, 5)])
        for stage in engine.stages:
            stage.zero_grad()
    (before, after), (before_scaled, after_scaled) = gradients
    assert not torch.allclose(before, before_scaled, rtol=1e-2)
    torch.testing.assert_close(after, after_scaled)
