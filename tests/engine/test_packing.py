"""Stages that exchange several tensors train as stages that concatenate and slice them by hand."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerpipe2 import Delays, PipelinedModule, UserError, make_strategy
from layerpipe2.engine.packing import is_packed, pack, unpack
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.planning.profiling import profile
from tests.engine.training import OPTIMIZERS, assert_bit_equal
from tests.pipeline import fits

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int32, torch.int64]


@st.composite
def structures(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = []
    for dtype in draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4)):
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 5, 70_000]), max_size=2).filter(lambda s: s.count(70_000) < 2))
        raw = torch.randint(-(2**62), 2**62, shape, generator=generator)
        tensors.append(torch.randn(shape, generator=generator).to(dtype) if dtype.is_floating_point else raw.to(dtype))
    kind = draw(st.sampled_from([tuple, list, dict]))
    return {f"ключ{k}": t for k, t in enumerate(tensors)} if kind is dict else kind(tensors)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(structures())
def test_what_is_unpacked_is_what_was_packed(value):
    found = unpack(pack(value))
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(found) == list(value)
        found, value = list(found.values()), list(value.values())
    for one, other in zip(found, value, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_gradients_flow_through_floats_alone():
    a, b = torch.randn(3, 2, requires_grad=True), torch.randn(2, dtype=torch.float16, requires_grad=True)
    x, mask, y = unpack(pack((a, a > 0, b)))
    (2 * x.sum() + 3 * y.sum()).backward()
    assert torch.equal(a.grad, torch.full_like(a, 2))
    assert torch.equal(b.grad, torch.full_like(b, 3))
    assert not mask.requires_grad


@pytest.mark.parametrize("x", [torch.ones(70), torch.ones(2, 70), torch.ones(0), torch.arange(80)])
def test_other_tensors_carry_nothing(x):
    assert not is_packed(x)
    assert unpack(x) is x
    assert pack(x) is x


class Begin(nn.Linear):
    """Hands on features, a mask and a skip connection."""

    def __init__(self, form):
        super().__init__(6, 6)
        self.form = form

    def forward(self, x):
        x, scale = x if isinstance(x, tuple) else (x[:, :6], x[:, 6:])
        return self.form({"h": super().forward(x).tanh() * scale, "mask": x > 0, "skip": x})


class Middle(Begin):
    def forward(self, value):
        h, mask, skip = parts_of(value)
        return self.form({"h": h + nn.Linear.forward(self, h).relu() * mask, "mask": mask, "skip": skip + h})


class End(nn.Linear):
    def forward(self, value):
        h, mask, skip = parts_of(value)
        return super().forward(h * mask + skip)


def parts_of(value):
    if isinstance(value, torch.Tensor):
        return value[:, :6], value[:, 6:12], value[:, 12:]
    return value.values() if isinstance(value, dict) else value


def by_hand(parts):
    return torch.cat([part.to(torch.get_default_dtype()) for part in parts.values()], 1)


FORMS = {"dict": dict, "output": OrderedDict, "tuple": lambda parts: tuple(parts.values()), "by hand": by_hand}


def stages(form):
    torch.manual_seed(1)
    return [Begin(FORMS[form]), Middle(FORMS[form]), Middle(FORMS[form]), End(6, 4)]


def batches(form, count=12):
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        x, scale = torch.randn(5, 6, generator=generator), torch.rand(5, 1, generator=generator)
        inputs = torch.cat([x, scale], 1) if form == "by hand" else pack((x, scale))
        yield inputs, torch.randint(4, (5,), generator=generator)


@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-span", "pair"])
@pytest.mark.parametrize("law", ["layerpipe2", "sequential"])
def test_a_training_is_that_of_tensors_joined_by_hand(law, strategy):
    found = {}
    for form in FORMS:
        network = stages(form)
        delays = Delays.by_law(law, 4) if law != "sequential" else Delays.custom([0] * 4)
        engine = PipelineEngine(network, delays, make_strategy(strategy))
        optimizer = torch.optim.SGD([p for stage in network for p in stage.parameters()], lr=0.1, momentum=0.9)
        for x, y in batches(form):
            engine.train_step(x, y, F.cross_entropy, optimizer)
        found[form] = nn.ModuleList(network).state_dict()
    for weights in found.values():
        assert_bit_equal(weights, found["by hand"])


def samples():
    x, y = zip(*batches("by hand", 6), strict=True)
    both = [{"x": a[:, :6], "scale": a[:, 6:], "y": b} for a, b in zip(x, y, strict=True)]
    return torch.utils.data.DataLoader(both, batch_size=None)


def module(form="dict", **options):
    named = {"inputs": ("x", "scale"), "target": "y"}
    return PipelinedModule(stages(form), "layerpipe2", "ema-span", optimizer=OPTIMIZERS["adamw"], **(named | options))


@pytest.mark.parametrize("options", [{}, {"split_backward": True}])
def test_processes_exchange_them_as_the_simulation_does(options):
    fits.assert_equal(fits.fit(module, data=samples), 2, **options)


def test_activations_are_recomputed_from_them():
    def stashing():
        made = module()
        made.strategy = make_strategy("stash")
        return made

    fits.assert_equal(fits.fit(stashing, data=samples), 2, recompute_activations=True)


def test_low_precision_casts_the_floats_alone():
    seen = []

    class Looking(Begin):
        def forward(self, x):
            seen.extend(part.dtype for part in x)
            return super().forward(x)

    network = [Looking(dict), *stages("dict")[1:]]
    engine = PipelineEngine(network, Delays.layerpipe2(4), make_strategy("latest"), compute_dtype=torch.bfloat16)
    x, y = next(batches("dict"))
    parts = (*unpack(x), torch.arange(3))
    with pytest.raises(ValueError, match="too many values"):
        engine.train_step(pack(parts), y, F.cross_entropy, torch.optim.SGD(engine.stages[0].parameters(), 0.1))
    assert seen == [torch.bfloat16, torch.bfloat16, torch.int64]


class Returns(nn.Linear):
    def __init__(self, value):
        super().__init__(6, 6)
        self.value = value

    def forward(self, x):
        return self.value(super().forward(x))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda h: None, r"^stage 0 returns a NoneType; give a tensor, or a flat tuple, list or dictionary of tensors"),
        (lambda h: (), r"^stage 0 returns a tuple without anything;"),
        (lambda h: {"h": h, "past": None}, r"^stage 0 returns a dict with a NoneType in it;"),
        (lambda h: (h, (h,)), r"^stage 0 returns a tuple with a tuple in it;"),
        (lambda h: [h, h.to(torch.complex64)], r"^stage 0 returns a list with a torch.strided torch.complex64 in it;"),
    ],
)
def test_refused(value, message):
    engine = PipelineEngine([Returns(value), nn.Linear(6, 6)], Delays.layerpipe2(2), make_strategy("latest"))
    engine.begin()
    with pytest.raises(UserError, match=message):
        engine.forward(torch.ones(2, 6))


def test_the_last_stage_returns_one_tensor():
    engine = PipelineEngine([nn.Linear(6, 6), Returns(lambda h: (h, h))], Delays.layerpipe2(2), make_strategy("latest"))
    engine.begin()
    with pytest.raises(UserError, match=r"^stage 1, the last one, returns a tuple; the loss takes a tensor"):
        engine.forward(torch.ones(2, 6))


@pytest.mark.parametrize("how", [{}, {"history": make_strategy("ema-span")}, {"split": True}])
def test_stages_that_exchange_them_are_timed_and_measured(how):
    inputs = pack((torch.randn(5, 6), torch.rand(5, 1)))
    works = profile(stages("dict"), inputs, lambda p: torch.optim.SGD(p, 0.1), repeats=1, **how)
    handed_on = 5 * (6 * 4 + 6 + 6 * 4)  # features, mask, skip connection
    assert [work.input_bytes for work in works] == [5 * 7 * 4, handed_on, handed_on, handed_on]
    assert [work.output_bytes for work in works] == [handed_on, handed_on, handed_on, 5 * 4 * 4]
