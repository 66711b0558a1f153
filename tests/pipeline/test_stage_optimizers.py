"""Parameter groups are made once over the whole network, whoever trains it, and cut by stage."""

from collections import defaultdict
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from layerpipe2 import UserError
from layerpipe2.pipeline.stage_optimizers import Everywhere, StageOptimizers
from tests.pipeline import processes
from tests.pipeline.fits import (
    assert_all_equal,
    dense,
    fit,
    in_process,
    noise,
    pipelined,
    trainer,
)

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def faster_head(parameters):
    return SGD([{"params": parameters[:-2]}, {"params": parameters[-2:], "lr": 0.3}])


def by_shape(parameters):
    matrices = [p for p in parameters if p.ndim > 1]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}], lr=0.01
    )


def without_first_stage(parameters):
    return torch.optim.Adagrad(parameters[4:], lr=0.01)


def two_rates(optimizer):
    return LambdaLR(optimizer, [lambda step: 1 / (1 + step), lambda step: 0.9**step])


def one_cycle(optimizer):
    return OneCycleLR(optimizer, [0.1, 0.3], total_steps=15)


def knows_the_network():
    stages = dense()
    named = dict(nn.Sequential(*stages).named_parameters())
    groups = [
        {"params": [p for name, p in named.items() if name.endswith("weight")]},
        {"params": [p for name, p in named.items() if name.endswith("bias")], "lr": 0.2},
    ]
    return pipelined(stages, optimizer=lambda _: SGD(groups))


def module(optimizer, **options):
    return pipelined(dense(), optimizer=optimizer, **options)


def test_groups_in_another_order_are_refused(tmp_path):
    def work(strategy, resume=None):
        def groups(parameters):  # two of one shape
            return torch.optim.Adam([{"params": [p]} for p in parameters[2:4][:: -1 if resume else 1]])

        made = module(groups)
        one = trainer(strategy, folder=tmp_path, max_epochs=2 if resume else 1)
        one.fit(made, noise(), noise(), ckpt_path=resume)
        return None, made

    processes.run(in_process, 2, work)
    with pytest.raises(AssertionError, match="is of parameter groups of other parameters, or in another order; resume"):
        processes.run(in_process, 2, partial(work, resume=tmp_path / "epoch=0.ckpt"))


class Lookahead(torch.optim.Optimizer):
    """As published ones are: without the base class's __init__, with hooks of its own kind or none."""

    k = 2

    def __init__(self, inner):
        self.inner, self.defaults, self.state, self.steps = inner, inner.defaults, defaultdict(dict), 0
        self.param_groups = inner.param_groups

    def slow(self, i, j, p):
        return self.state[p].setdefault("slow", p.detach().clone())

    @torch.no_grad()
    def step(self, closure=None):
        self.inner.step(closure)
        self.steps += 1
        for i, group in enumerate(self.param_groups if self.steps % self.k == 0 else []):
            for j, p in enumerate(group["params"]):
                p.copy_(self.slow(i, j, p).lerp_(p, 0.5))


class Early(Lookahead):
    """Copies the weights when it is made."""

    def __init__(self, inner):
        super().__init__(inner)
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}  # as pytorch_optimizer has them
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["slow"] = p.detach().clone()


class InLists(Lookahead):
    k = 6  # more steps than are tried

    def __init__(self, inner):
        super().__init__(inner)
        self.lists = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]

    def slow(self, i, j, p):
        return self.lists[i][j]


class InGroups(InLists):
    def __init__(self, inner):
        super().__init__(inner)
        self.param_groups[0]["slow"] = self.lists.pop()

    def slow(self, i, j, p):
        return self.param_groups[i]["slow"][j]


def around(lookahead):
    return lambda parameters: lookahead(SGD(parameters))


def test_groups_and_lookaheads_are_those_of_one_process():
    rows = {
        "by position": partial(module, faster_head),
        "by shape": partial(module, by_shape),
        "some left out": partial(module, without_first_stage),
        "rates per group": partial(module, faster_head, scheduler=two_rates),
        "largest rates per group": partial(module, faster_head, scheduler=one_cycle, scheduler_interval="step"),
        "by name": knows_the_network,
        "a lookahead": partial(module, around(Lookahead), strategy="ema-window"),
        "one that copies early": partial(module, around(Early), strategy="pair"),
    }
    assert_all_equal({name: fit(make) for name, make in rows.items()}, 2)


def test_a_wrapper_without_what_lightning_reads():
    class Bare(Lookahead):
        def __init__(self, inner):
            super().__init__(inner)
            del self.defaults

    with pytest.raises(UserError, match="Bare has no defaults, as Lightning wants of an optimizer"):
        module(around(Bare)).optimizer_over(NETWORK.parameters())


def clip(optimizer, *_):
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.1)


class Normed(torch.optim.SGD):
    """Its step depends on all gradients."""

    def step(self, closure=None):
        clip(self)
        return super().step(closure)


class Noisy(torch.optim.SGD):
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            p.grad += torch.randn(p.shape)
        return super().step(closure)


def hooked(parameters):
    optimizer = SGD(parameters)
    optimizer.register_step_pre_hook(clip)
    return optimizer


def by_values(parameters):
    return SGD(sorted(parameters, key=lambda p: p.abs().max().item()))


NETWORK = nn.ModuleList(dense())


class Reading(torch.optim.SGD):
    """Its step reads the network by a global name."""

    def step(self, closure=None):
        for p in NETWORK.parameters():
            p.data.mul_(0.9)
        return super().step(closure)


def hook_on_the_network(parameters):
    optimizer, network = SGD(parameters), NETWORK
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(network.parameters(), 0.1) and None)
    return optimizer


def rates_by_parameter(parameters):
    rates = dict.fromkeys(NETWORK.parameters(), 0.1)
    return SGD([{"params": [p], "lr": rates[p]} for p in parameters])


LOOKS = r"\) or a hook of its steps looks at parameters of the network other than those that its maker was given"
LISTS = r"keeps a list of tensors, one for each of its parameters \(slow weights of a Lookahead\?\), of which"
OTHERWISE = "the optimizer moves the parameters of stage 2 otherwise where it has those of all stages"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(Normed, lr=0.1), OTHERWISE),
        (partial(Noisy, lr=0.1), OTHERWISE),
        (hooked, OTHERWISE),
        (by_values, "optimizer can't be made without the values of other processes' parameters"),
        (rates_by_parameter, "optimizer can't be made without the values of other processes' parameters"),
        (lambda _: Normed(NETWORK.parameters(), lr=0.1), LOOKS),
        (partial(Reading, lr=0.1), LOOKS),
        (hook_on_the_network, LOOKS),
        (around(InLists), LISTS),
        (around(InGroups), LISTS),
    ],
    ids=[
        *("a norm of all", "random numbers", "a hook", "values", "a table of rates"),
        *("the network's own parameters", "a global name", "a hook on the network", "lists", "lists of a group"),
    ],
)
def test_what_cannot_be_cut_is_refused(optimizer, message):
    with pytest.raises(UserError, match=message):
        cut(optimizer, NETWORK)


def test_each_stage_needs_an_optimizer_of_its_own():
    optimizer = SGD(NETWORK.parameters())
    with pytest.raises(UserError, match="returns the same optimizer again, but each stage needs one of its own"):
        cut(lambda _: optimizer, NETWORK)


def cut(optimizer, whole=None):
    """The optimizer of a process that has stage 2."""
    whole = whole or nn.ModuleList(dense())
    return StageOptimizers(module(optimizer), Everywhere(whole), {2: whole[2]}).make([2])[0]


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and kind not in (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.Muon)
    ],
)
def test_torchs_own_optimizers_treat_each_parameter_by_itself(kind):
    optimizer = cut(partial(kind, lr=0.01))
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [(4, 16), (4,)]
    assert all(not p.is_meta for p in optimizer.state)


def test_a_try_leaves_weights_and_random_numbers_alone():
    whole = nn.ModuleList(dense())
    before, state = [p.clone() for p in whole.parameters()], torch.get_rng_state()

    def clamping(parameters):
        optimizer = SGD(parameters)
        optimizer.register_step_post_hook(lambda *_: [p.data.zero_() for p in whole.parameters()])
        return optimizer

    made = module(clamping)
    torch.set_rng_state(state)
    with pytest.raises(UserError, match="or a hook of its steps looks at parameters of the network"):
        StageOptimizers(made, Everywhere(whole), dict(enumerate(whole))).make([0, 1, 2])
    assert all(map(torch.equal, whole.parameters(), before))
    assert torch.equal(torch.get_rng_state(), state)
