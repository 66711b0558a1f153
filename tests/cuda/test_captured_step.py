"""The captured step equals the eager one bit for bit, on CUDA."""

import copy

import pytest
import torch
import torch.nn.functional as F

from layerpipe2 import STRATEGIES, Delays, make_strategy, partition
from layerpipe2.engine.cuda_graph import CapturedStep, why_not_capturable
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.lab import networks

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True, capturable=True),
}


@pytest.fixture(autouse=True)
def _deterministic():
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def engine_for(strategy, precision, clip=None):
    torch.manual_seed(1)
    layers = networks.build("resnet-small", input_shape=(3, 16, 16), num_classes=10)
    stages = [s.cuda() for s in partition(layers, len(layers) if strategy == "sequential" else 1)]
    delays = Delays.layerpipe2(len(stages))
    dtype = torch.bfloat16 if precision == "bf16" else None
    return PipelineEngine(stages, delays, make_strategy(strategy), compute_dtype=dtype, gradient_clip_norm=clip)


def train(engine, make_optimizer, graphed, steps=14):
    optimizer = make_optimizer([p for s in engine.stages for p in s.parameters()])
    step = CapturedStep(engine, F.cross_entropy, optimizer)
    generator = torch.Generator("cuda").manual_seed(2)
    losses = []
    for t in range(steps):
        size = 24 if t == 9 else 32  # one smaller batch after the capture
        x = torch.randn(size, 3, 16, 16, generator=generator, device="cuda")
        y = torch.randint(10, (size,), generator=generator, device="cuda")
        for group in optimizer.param_groups:
            group["lr"].fill_(0.05 / (1 + t))
        run = step if graphed else step._eager
        losses.append(run(x, y)[0].item())
    return losses


CASES = [(name, precision, "sgd", None) for name in [*STRATEGIES, "ema-lsq-raw"] for precision in ("native", "bf16")]
CASES += [("ema-window", "native", "adamw", 0.5)]


@pytest.mark.parametrize(("strategy", "precision", "optimizer", "clip"), CASES)
def test_captured_equals_eager(strategy, precision, optimizer, clip):
    eager, graphed = (engine_for(strategy, precision, clip) for _ in range(2))
    expected = train(eager, OPTIMIZERS[optimizer], graphed=False)
    assert train(graphed, OPTIMIZERS[optimizer], graphed=True) == expected
    for a, b in zip(eager.stages, graphed.stages, strict=True):
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y)


def test_a_captured_engine_goes_on_from_a_saved_state():
    whole = engine_for("ema-window", "native")
    state = copy.deepcopy(whole.state_dict())
    assert all(torch.equal(stage["line"], whole.delayed[int(k)].line) for k, stage in state["stages"].items())
    first = train(whole, OPTIMIZERS["sgd"], graphed=True)
    again = engine_for("ema-window", "native")
    again.load_state_dict(state)
    assert train(again, OPTIMIZERS["sgd"], graphed=True) == first


def test_optimizers_that_cannot_be_captured_are_named():
    p = [torch.nn.Parameter(torch.zeros(1, device="cuda"))]
    assert why_not_capturable(torch.optim.SGD(p, lr=0.1)) == "SGD is not fused: give it fused=True"
    assert "capturable=True" in (why_not_capturable(torch.optim.AdamW(p, lr=0.1, fused=True)) or "")
    assert why_not_capturable(OPTIMIZERS["adamw"](p)) is None
