"""Tensors that cross from one process to the next, and stages that begin or end in unusual ways."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2.pipeline.messages import message_size, pack, unpack
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline.fits import ByDevice, ByGloo, assert_all_equal, assert_equal, fit, noise, pipelined, stage_alone
from tests.sampling import sampled


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def tokens():
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(7, (40, 6), generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(4, (40,), generator=generator)), 8)


def frozen(module):
    return module.requires_grad_(False)


# Shape of an input, stages: in double precision, where kernels differ by memory format.
LAYOUTS = {
    "gradient in channels last": ((3, 16, 16), lambda: [
        nn.Conv2d(3, 19, 3),
        nn.Sequential(Apply(lambda x: x.contiguous(memory_format=torch.channels_last)), nn.Conv2d(19, 8, 3)),
        Apply(lambda x: x.flatten(1)), nn.Linear(1152, 4)]),
    "expanded and permuted gradient": ((3, 16, 16), lambda: [
        nn.Conv2d(3, 19, 3), Apply(lambda x: x.flatten(2).transpose(1, 2)),
        nn.Sequential(nn.LayerNorm(19), nn.Linear(19, 21)),
        nn.Sequential(Apply(lambda x: x.mean(1)), nn.Linear(21, 4))]),
    "expanded activation": ((49, 33), lambda: [
        nn.Linear(33, 65), Apply(lambda x: x[:, :, None].expand(-1, -1, 3, -1)),
        nn.Sequential(nn.Linear(65, 4), nn.Flatten()), nn.Linear(588, 4)]),
    "tokens cut off": ((49, 33), lambda: [
        nn.Sequential(nn.Linear(33, 65), nn.LayerNorm(65)), Apply(lambda x: x[:, 1:]),
        nn.Sequential(nn.Linear(65, 16), nn.Tanh(), nn.Flatten()), nn.Linear(768, 4)]),
    "half of the features": ((49, 33), lambda: [
        nn.Linear(33, 130), Apply(lambda x: x.chunk(2, -1)[1]),
        nn.Sequential(nn.Linear(65, 16), nn.Tanh(), nn.Flatten()), nn.Linear(784, 4)]),
}  # fmt: skip
STAGES = {
    "in-place operations first": lambda: [
        nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16)), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(16, 16)),
        nn.Sequential(nn.Dropout(0.2, inplace=True), nn.ReLU(inplace=True), nn.Linear(16, 4))],
    "no parameters first": lambda: [nn.Identity(), nn.Tanh(), nn.Linear(12, 16), nn.Linear(16, 4)],
    "no parameters last": lambda: [nn.Linear(12, 16), nn.Linear(16, 4), nn.Identity(), nn.Identity()],
    "frozen first": lambda: [frozen(nn.Linear(12, 16)), nn.Sequential(nn.Tanh(), nn.Linear(16, 16)), nn.Linear(16, 4)],
    "frozen in between": lambda: [nn.Linear(12, 16), frozen(nn.Linear(16, 16)), nn.Linear(16, 4)],
}  # fmt: skip
WAYS = {"whole": {}, "split": {"split_backward": True}, "device": {"strategy": ByDevice}, "gloo": {"strategy": ByGloo}}
ways = pytest.mark.parametrize("way", sampled([*WAYS], ["split"]))


def test_layouts_travel():
    rows = {
        name: fit(
            lambda stages=stages: pipelined([stage.double() for stage in stages()], "stash"),
            data=lambda shape=shape: noise(shape, dtype=torch.float64),
        )
        for name, (shape, stages) in LAYOUTS.items()
    }
    assert_all_equal(rows, 4)


@ways
def test_stages(way):
    schedule = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
    rows = {
        name: (
            fit(lambda stages=stages: pipelined(stages(), "ema-window", scheduler=schedule), max_steps=12),
            WAYS[way],
        )
        for name, stages in STAGES.items()
    }
    assert_all_equal(rows, 2)


@pytest.mark.parametrize("way", sampled([*WAYS], ["split", "device"]))
def test_integers_have_no_gradient_to_send(way):
    stages = lambda: [nn.Identity(), nn.Embedding(7, 12), nn.Sequential(nn.Flatten(), nn.Linear(72, 4))]  # noqa: E731
    assert_equal(fit(lambda: pipelined(stages()), data=tokens), 3, **WAYS[way])


@pytest.mark.parametrize("strategy", [PipelineStrategy, ByGloo, ByDevice])
def test_a_smaller_last_batch(strategy):
    make = lambda: pipelined(STAGES["no parameters last"]())  # noqa: E731
    assert_equal(fit(make, data=lambda: noise(size=37)), 2, strategy=strategy)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x[:, 1:],
        lambda x: x[:, :, ::2],
        lambda x: x[0],
        lambda x: x.permute(2, 0, 1),
        lambda x: x.mean(1, keepdim=True).expand_as(x),
        lambda x: x[:, None, 1:].expand(-1, 3, -1, -1),
        lambda x: x.sum(),
        lambda x: x[:, :0],
        lambda x: x > 0,
    ],
)
def test_a_message_keeps_strides_and_alignment(change):
    x = change(torch.randn(4, 5, 6))
    sent = [x, torch.arange(7), x]
    message = torch.empty(message_size(sent), dtype=torch.uint8)
    pack(sent, message)
    for there, here in zip(unpack(message), sent, strict=True):
        assert there.dtype == here.dtype
        assert there.stride() == here.stride()
        assert torch.equal(there, here)
        assert not there.numel() or (there.data_ptr() - here.data_ptr()) % 64 == 0


def test_a_split_backward_pass_adds_up_a_shared_weights_gradients_as_a_whole_one_does():
    found = []
    for split in (False, True):
        torch.manual_seed(0)
        shared = nn.Linear(8, 8)
        stage = nn.Sequential(nn.Linear(8, 8), shared, nn.Tanh(), shared, nn.Tanh(), shared)
        optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
        local = stage_alone(stage, 1, 0, "stash", optimizer, accumulate=3, split_backward=split)
        for _ in range(6):
            local.forward(torch.randn(4, 8))
            local.backward(torch.randn(4, 8))
            local.finish_backward()
            local.update()
        found.append(shared.weight.detach().clone())
    assert torch.equal(*found)
