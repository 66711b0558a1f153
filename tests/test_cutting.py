"""Any network as stages: equal to it in everything that trains, or refused in one line that says why."""

import copy
import math
import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, UserError, cut
from layerpipe2.cutting import cut_finely
from layerpipe2.cutting.example import Example
from layerpipe2.cutting.stages import check_equal

TOKENS = torch.arange(24).reshape(3, 8) * 7 % 20
ROWS = torch.linspace(-1, 1, 48).sin().reshape(6, 8)
IMAGES = torch.linspace(-1, 1, 4 * 3 * 16 * 16).sin().reshape(4, 3, 16, 16)


class Net(nn.Module):
    """Four layers and a forward of its own; tensors among ``held`` are buffers."""

    def __init__(self, way, **held):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.way = way
        for name, item in held.items():
            if isinstance(item, torch.Tensor):
                self.register_buffer(name, item, persistent=False)
            else:
                setattr(self, name, item)

    def forward(self, x):
        return self.way(self, x)


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.2), nn.Linear(2 * width, width))

    def forward(self, x, mask=None):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, 2, C // 2).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
        weights = q @ k.transpose(-2, -1) * (1.0 / math.sqrt(k.size(-1)))
        weights = weights.masked_fill(mask[:T, :T] == 0, torch.finfo(weights.dtype).min)
        weights = F.dropout(weights.softmax(-1), 0.2 if self.training else 0.0)
        x = x + F.dropout(self.out((weights @ v).transpose(1, 2).reshape(B, T, C)), 0.2, self.training)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Token numbers to logits (B, classes, T), with a causal mask made in forward in one of three ways."""

    def __init__(self, mask="made", tied=False):
        super().__init__()
        self.mask, self.tokens, self.places = mask, nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.register_buffer("causal", torch.tril(torch.ones(12, 12)), persistent=False)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, numbers):
        _, T = numbers.size()
        assert T <= 12
        x = self.tokens(numbers) + self.places(torch.arange(T, device=numbers.device))
        mask = torch.tril(torch.ones(T, T)) if self.mask == "made" else self.causal
        if self.mask == "filled":
            mask = torch.zeros(T, T)
            mask[torch.arange(T)[:, None] >= torch.arange(T)] = 1
            mask[0].mul_(2)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.head(self.norm(x)).transpose(1, 2)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.middle, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        first = self.down1(x).relu()
        return self.out(torch.cat([self.up(self.middle(self.down2(first).relu()).relu()), first], 1))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return 3 * gradient


@dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


def whole(way):
    """A network that calls one that can't be taken apart, between layers."""
    return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh(), Net(way)), nn.Linear(3, 3))


def chain(self, x):
    return self.d(self.c(self.b(self.a(x)).relu()))


def by_mode(self, x):
    x = self.b(self.a(x))
    return self.d(self.c(x + torch.randn_like(x) if self.training else F.dropout(x, 0.5, self.training)))


def moves(self, x):
    x = self.norm(self.b(self.a(x)))
    if self.training:
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return self.d(self.c(x - self.mean))


def some_without_gradient(self, x):
    x = self.a(x)
    with torch.no_grad():
        y = self.b(x)
    return self.d(self.c(x * y.sigmoid()))


def in_place(self, x):
    x = self.b(self.a(x))
    x += 1
    x[:, 0] = 2
    return self.d(self.c(x).relu_())


def constants(self, x):
    ones = torch.ones(len(self.scale), dtype=x.dtype) * self.scale
    x = self.b(self.a(x) * ones) + torch.zeros(x.shape[0], 1)
    left, right = x.chunk(2, -1)
    x = self.c(torch.cat([right, left], -1)) * ones
    return self.d(x + x.new_ones(x.size(0), 1))


def answers(self, x, labels=None, **options):
    return Answer(chain(self, x))


def computed_weights(self, x):
    return F.linear(self.c(self.b(self.b(self.a(x)))), 2 * self.d.weight, self.d.bias)


def checkpointed(self, x):
    return checkpoint(lambda y: chain(self, Double.apply(y)), x, use_reentrant=False)


def hooked():
    network = Net(chain, b=nn.Dropout(0.5))
    network.c.register_forward_hook(lambda module, args, out: out * 2)
    network.d.register_full_backward_hook(lambda module, given, out: (given[0] * 2,))
    network.register_forward_hook(lambda module, args, out: out + 1)
    return network


def parametrized():
    network = Net(chain)
    parametrizations.weight_norm(network.c)
    nn.utils.spectral_norm(network.b)
    return network


def resnet():
    return pytest.importorskip("torchvision.models").resnet18(weights=None)


NETWORKS = {
    "list": (lambda: [nn.Linear(8, 8) for _ in range(4)], ROWS, ["2"]),
    "sequential": (lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), nn.Linear(4, 3)), ROWS, ["1"]),
    "way by mode": (lambda: Net(by_mode), ROWS, ["c", "d"]),
    "moves buffers": (lambda: Net(moves, norm=nn.BatchNorm1d(8), mean=torch.zeros(8)), ROWS, ["norm"]),
    "some without gradient": (lambda: Net(some_without_gradient), ROWS, ["c"]),
    "in place": (lambda: Net(in_place), ROWS, ["b", "c"]),
    "constants": (lambda: Net(constants, scale=torch.arange(8) / 8), ROWS[:1], ["c", "d"]),
    "class around the output": (lambda: Net(answers), ROWS, ["d"]),
    "computed weights": (lambda: Net(computed_weights), ROWS, ["c"]),
    "hooks": (hooked, ROWS, ["c", "d"]),
    "parametrized": (parametrized, ROWS, ["c"]),
    "whole: checkpoint, function": (lambda: whole(checkpointed), ROWS, ["1.1", "2"]),
    "whole: reads values": (lambda: whole(lambda self, x: chain(self, x / x.max().item())), ROWS, ["2"]),
    "mask made": (Decoder, TOKENS, ["blocks.1", "blocks.2", "norm"]),
    "mask in a buffer": (lambda: Decoder("buffer"), TOKENS, ["blocks.0.norm2", "blocks.2"]),
    "mask filled": (lambda: Decoder("filled"), TOKENS, ["blocks.1.norm2"]),
    "U-Net": (Unet, IMAGES, ["down2", "middle", "up"]),
    "skips": (lambda: Net(skips), ROWS, ["b", "c", "d"]),
    "noise for two": (lambda: Net(noise), ROWS, ["c"]),
    "resnet18": (resnet, IMAGES, ["layer2.1", "layer3"]),
}


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x.logits if isinstance(x, Answer) else x


def result(network, stages, x, training):
    """Output, gradients and buffers of a training or evaluation step of the network by these stages."""
    network.train(training)
    for stage in stages:
        stage.train(training)
    before = [buffer.clone() for buffer in network.buffers()]
    torch.manual_seed(3)
    out = run(stages, x)
    out.square().sum().backward()
    found = {"out": out.detach(), **{f"buffer {name}": buffer.clone() for name, buffer in network.named_buffers()}}
    for module in [network, *stages]:
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[name] = found.get(name, 0) + parameter.grad
                parameter.grad = None
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.data.copy_(value)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_are_the_network_and_hold_its_own_parameters(name):
    make, example, at = NETWORKS[name]
    network = make()
    network = nn.Sequential(*network) if isinstance(network, list) else network
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.get_rng_state()
    stages = cut(network, example, at=at)
    assert torch.equal(state, torch.get_rng_state())
    assert (stages.at, len(stages)) == (at, len(at) + 1)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    held = [parameter for stage in stages for parameter in stage.parameters()]
    assert len(held) == len({id(parameter) for parameter in held})
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in network.parameters()}
    assert {key for stage in stages for key in stage.state_dict()} == set(before)
    assert str(stages).count("\n") == len(stages) or name == "parametrized"
    fewer = (
        example[:, :5] if example is TOKENS else example[..., : example.shape[-1] - 4] if example.dim() > 3 else example
    )
    for x in (example, torch.cat([example, example, example[:1]]), fewer):
        for training in (True, False):
            expected, ours = result(network, [network], x, training), result(network, stages, x, training)
            for key, value in expected.items():
                torch.testing.assert_close(
                    ours[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
                )


FORMULAS = {
    "followed": (lambda B, T: (B * T + T // 2 - 3) % 7 + (T & 3) + min(T, 100) - 2**B + 1 / T, True),
    "branch": (lambda B, T: 2 if T > 4 else 3, False),
    "rounded": (lambda B, T: math.ceil(T / 16) + round(T / 5) + math.floor(T / 3), True),
    "root": (lambda B, T: math.sqrt(T), False),
    "integer": (lambda B, T: int(T / 16), False),
    "slices": (lambda B, T: sum(2 for _ in range(-(-T // 4))), False),
    "unrolled": (lambda B, T: sum(1 for _ in range(T)), False),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_numbers_from_sizes_are_followed_or_hold_for_the_example_only(name):
    how, followed = FORMULAS[name]

    def way(self, numbers):
        x = self.tokens(numbers)
        return self.d(self.c(x) * how(*numbers.shape))

    network = Net(way, tokens=nn.Embedding(20, 8))
    for at in (["c"], ["d"]):
        stages = cut(network, TOKENS, at=at)
        assert torch.equal(run(stages, TOKENS[:1]), network(TOKENS[:1]))
        if followed:
            assert torch.equal(run(stages, TOKENS[:, :3]), network(TOKENS[:, :3]))
        else:
            with pytest.raises(UserError, match="stages were cut for inputs of another size"):
                run(stages, TOKENS[:, :3])


def test_a_tied_parameter_is_untied_on_request():
    network = Decoder(tied=True)
    with pytest.raises(UserError, match=r"parameter 'head.weight' is used by stages 0 and 1; untie=True"):
        cut(network, TOKENS, at=["blocks.1"])
    stages = cut(network, TOKENS, at=["blocks.1"], untie=True)
    copied = stages[1].get_parameter("head.weight")
    assert stages[0].get_parameter("tokens.weight") is network.tokens.weight is not copied
    expected, ours = (result(network, parts, TOKENS, True) for parts in ([network], stages))
    torch.testing.assert_close(ours["head.weight"] + ours["tokens.weight"], expected["tokens.weight"])
    assert cut(network, TOKENS, stages=1).works[0].total.flops > 0


def trained(stages):
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05)  # noqa: E731
    module = PipelinedModule(stages, "layerpipe2", "ema-span", optimizer=sgd, stage_seed=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    loader = DataLoader(TensorDataset(ROWS, torch.arange(len(ROWS)) % 8), 3)
    pl.Trainer(max_epochs=4, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, loader, loader)
    return module.trainer.callback_metrics


def test_stages_in_balance_train_like_stages_by_hand():
    torch.manual_seed(0)
    by_cut = nn.Sequential(*(make(8) for _ in range(4) for make in (lambda n: nn.Linear(n, n), nn.BatchNorm1d)))
    by_hand = copy.deepcopy(by_cut)
    stages = cut(by_cut, ROWS, stages=3)
    starts = [0, *map(int, stages.at), len(by_hand)]
    assert len(starts) == 4
    assert trained(copy.deepcopy(stages)) == trained([by_hand[a:b] for a, b in pairwise(starts)])


def skips(self, x):
    x = self.a(x)
    return self.d(self.c(self.b(x)) + x)


def noise(self, x):
    noise = torch.rand(8)
    return self.d(self.c(self.b(self.a(x)) + noise) + noise)


def keeps(self, x):
    self.kept = self.a(x)
    return self.d(self.kept)


def without_gradient(self, x):
    with torch.no_grad():
        x = self.a(x)
    return self.d(x)


def autocast(self, x):
    with torch.autocast("cpu"):
        return self.d(self.a(x))


def per_sample(self, x):
    return self.d(torch.stack([self.a(x[i]) for i in range(x.shape[0])]))


def unlike(self, x):
    x = self.a(x)
    return self.d(2 * x if torch.is_grad_enabled() else x)


NORM = nn.BatchNorm1d(8, affine=False)
TWO = {"stages": 2}
REFUSED = {
    "too many stages": (skips, {"stages": 5}, r"can't be cut into 5 stages: a stage can begin at 3 submodules "
                        r"\('b, c, d'\); ask for at most 4"),
    "unknown name": (chain, {"at": ["cc"]}, "network has no submodule 'cc'; did you mean 'c'?"),
    "order": (chain, {"at": ["c", "b"]}, "not in the order"),
    "first": (chain, {"at": ["a"]}, "no stage can begin at 'a': nothing comes before"),
    "called twice": (computed_weights, {"at": ["b"]}, "'b': it is not called, or several times"),
    "changed there": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(True), nn.Linear(8, 8)), {"at": ["1"]},
                      "the output of '0' is changed in place there"),
    "branch": (lambda self, x: self.a(x) if x.sum() > 0 else self.b(x), TWO,
               r"reads the value of a tensor \(__bool__\), at .*test_cutting.py:\d+: .*x.sum\(\) > 0"),
    "value": (lambda self, x: self.a(x) * float(x.detach().sum()), TWO, r"reads the value of a tensor \(__float__"),
    "attribute": (keeps, TWO, "forward changes attribute 'kept'"),
    "chance": (lambda self, x: self.a(x) * random.random(), TWO, "draws random numbers of Python's or NumPy's"),
    "no gradient": (without_gradient, {"at": ["d"]}, "the output of 'a' has no gradient"),
    "autocast": (autocast, TWO, r"computes under autocast, at .*: return self.d\(self.a\(x\)\)"),
    "checkpoint": (lambda self, x: checkpoint(self.a, x, use_reentrant=False), TWO, "computes under a checkpoint"),
    "function": (lambda self, x: Double.apply(self.a(x)), TWO, "computes in an autograd.Function"),
    "other tensor": (lambda self, x: self.a(x) + ROWS[0].numpy().sum() + ROWS[0], TWO, "reads the value of a tensor"),
    "samples": (per_sample, TWO, "takes other steps for another number of samples, at .*range"),
    "unlike without gradients": (unlike, {"at": ["d"]}, "stages are not the network: the output differs in evaluation"),
    "statistics of two": (lambda: nn.Sequential(nn.Linear(8, 8), NORM, nn.Linear(8, 8), NORM), {"at": ["2"]},
                          r"buffer '1.[a-z_]+' is used by stages 0 and 1"),
    "parameter of two": (lambda self, x: self.b(self.c(self.b(x))), {"at": ["c"]}, "'b.weight' is used .* untie=True"),
    "two outputs": (lambda self, x: {"logits": self.a(x), "x": x}, TWO,
                    "network returns logits, x; give one that returns one tensor, or name .*, as output='logits'"),
    "other output": (lambda self, x: {"logits": self.a(x), "x": x}, TWO | {"output": "logit"},
                     "network returns logits, x, and no 'logit'; did you mean 'logits'?"),
    "no tensor there": (lambda self, x: self.a(x) + self.b(x, Answer), TWO, "passes a type on, which is no tensor"),
    "other mode": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Sequential(NORM, nn.Linear(8, 8)).eval()), {"at": ["1.1"]},
                   "submodule '1', which a cut goes through, is in another mode"),
    "nothing asked for": (chain, {}, "give either stages="),
    "a name alone": (chain, {"at": "b"}, "give a list of names"),
    "no module": (lambda: 5, TWO, "network is 5; give a module"),
    "no stages": (chain, {"stages": 0}, "number of stages is 0"),
    "compiled": (lambda: Net(chain, _orig_mod=NORM), TWO, "network is compiled"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("network", "at"),
    [
        (Net(lambda self, x: self.d(self.c(self.b(self.a(x).relu())) + 1)), ["b", "c", "d"]),
        (Net(skips), ["b", "d"]),
        (nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3), nn.Tanh()), ["1"]),
        (nn.Sequential(nn.Linear(8, 8)), []),
    ],
    ids=["chain", "skip", "without parameters", "one layer"],
)
def test_the_finest_stages_have_something_to_train_and_get_one_tensor(network, at):
    stages = cut_finely(network, ROWS)
    assert (stages.at, len(stages)) == (at, len(at) + 1)
    assert all(any(p.requires_grad for p in stage.parameters()) for stage in stages)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_cut_is_refused_in_one_line(name):
    make, how, message = REFUSED[name]
    network = Net(make, mean=torch.zeros(8)) if make.__code__.co_argcount else make()
    with pytest.raises(UserError, match=message) as refused:
        cut(network, ROWS, **how)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((ROWS, ROWS), "^example doesn't fit the network's forward: too many positional arguments; give example= a t"),
        ({"y": ROWS}, "^example doesn't fit the network's forward: missing a required argument: 'x';"),
        (7, "^example is 7; give a mini-batch"),
        ({}, "^example is {}; give a mini-batch"),
        ({"x": [1]}, r"^input 'x' is \[1\]; give a mini-batch"),
        ((ROWS, ROWS[:3]), r"^input 1 is of shape \[3, 8\]; give a mini-batch \(B, ...\), each input with B samples"),
        (ROWS[:, :5], "mat1 and mat2 .*, at .*test_cutting.py"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(example, message):
    with pytest.raises(UserError, match=message) as refused:
        cut(Net(chain), example, stages=2)
    assert "\n" not in str(refused.value)


class Translator(nn.Module):
    """Reads a text and another one so far, each with its padding; the texts' lengths differ."""

    def __init__(self):
        super().__init__()
        self.tokens, self.read = nn.Embedding(20, 16), nn.ModuleList(Block() for _ in range(2))
        self.write, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(16, 20)

    def forward(self, text, so_far, padding=None, weight=None):
        x, y = self.tokens(text), self.tokens(so_far)
        if torch.compiler.is_exporting() or not padding.all():  # a shortcut that depends on values
            x = x * padding[:, :, None]
        for block in self.read:
            x = block(x, mask=padding[0, :, None] | padding[0])
        for block in self.write:
            y = block(y, mask=torch.ones(20, 20).tril()) + (x * padding[:, :, None]).mean(1, keepdim=True)
        return {"logits": self.head(y).transpose(1, 2) * weight[:, None], "read": x}


TEXTS = {"text": TOKENS, "so_far": TOKENS[:, 1:6], "padding": TOKENS > 3, "weight": torch.rand(3, 5)}
ADDED = (ROWS, torch.rand(6, 8), torch.arange(48).reshape(6, 8) % 3 == 0)


class Added(Net):
    def forward(self, x, scale, chosen):
        x = self.b(self.a(x)).where(chosen, x)
        return self.d(self.c(x * scale) + scale)


def shorter(given):
    return {"text": given["text"][:, :7], "padding": given["padding"][:, :7]} if "text" in given else {}


@pytest.mark.parametrize(
    ("make", "given", "at", "output"),
    [
        (Translator, TEXTS, ["read.1", "write.0", "write.1.mlp", "head"], "logits"),
        (Translator, TEXTS, None, "logits"),
        (lambda: Added(None), ADDED, ["b", "c", "d"], None),
        (lambda: Net(answers), (ROWS,), ["c"], None),
    ],
    ids=["names", "in balance", "positions", "a tuple of one"],
)
@pytest.mark.parametrize("training", [True, False])
def test_several_inputs_reach_the_stages_that_need_them(make, given, at, output, training):
    network = make().train(training)
    stages = cut(network, given, 3 if at is None else None, at=at, output=output)
    assert str(stages).count("\n") == len(stages)
    names = given if isinstance(given, dict) else range(len(given))
    longer = {name: torch.cat([given[name], given[name][:2]]) for name in names}
    for parts in ({name: given[name] for name in names}, longer, longer | shorter(longer)):
        grown = {name: part.clone().requires_grad_(part.is_floating_point()) for name, part in parts.items()}
        found = []
        for whole in (True, False):
            torch.manual_seed(3)
            values = tuple(grown.values())
            if whole:
                out = network(**grown) if isinstance(given, dict) else network(*values)
                out = out.logits if isinstance(out, Answer) else out if isinstance(out, torch.Tensor) else out[output]
            else:
                out = run(stages, values)
            weights = [*network.parameters(), *(value for value in values if value.requires_grad)]
            found.append([out, *torch.autograd.grad(out.square().sum(), weights, allow_unused=True)])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_first_of_the_stages_takes_the_inputs_that_it_was_cut_for():
    stages = cut(Translator(), TEXTS, at=["head"], output="logits")
    text, so_far, padding, weight = TEXTS.values()
    for given in (text, (text, so_far)):
        with pytest.raises(
            UserError, match=r"the first stage gets a [Tt].*; give it a tuple of input 'text', input 'so_"
        ):
            stages[0](given)
    with pytest.raises(UserError, match=r"cut for inputs of another size or type \(5 in dimension 1, not \[3, 4\]\)"):
        stages[0]((text, so_far, padding, weight[:, :4]))


def test_the_gradient_of_each_input_is_compared():
    network = Added(None)
    first, last = cut(network, ADDED, at=["c"])

    class Spoilt(nn.Module):
        def forward(self, given):
            return first((given[0], given[1].detach(), given[2]))

    with pytest.raises(UserError, match="stages are not the network: the gradient of input 1 differs in training"):
        check_equal(network, [Spoilt(), last], (), [Example(ADDED, alone=False)])


def test_processes_do_not_measure_each_for_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="each process would measure times of its own"):
        cut(Net(chain), ROWS, 2)
    assert len(cut(Net(chain), ROWS, at=["b"])) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda stage: nn.Sequential(stage, nn.Dropout(0.1)), "the output differs in training"),
        (lambda stage: lambda x: stage(x.detach()), "the gradient of the input differs in training"),
        (lambda stage: lambda x: stage(x if len(x) == 6 else 2 * x), r"the output differs in training.*\[3, 8\]"),
        (lambda stage: lambda x: (stage(x), stage(x))[0], "buffer 'b.running_mean' differs"),
    ],
)
def test_stages_that_are_not_the_network_are_refused(spoil, message):
    class Spoilt(nn.Module):
        def __init__(self, stage):
            super().__init__()
            self.stage = stage

        def forward(self, x):
            return spoil(self.stage)(x)

    network = Net(chain, b=nn.BatchNorm1d(8))
    first, last = cut(network, ROWS, at=["c"])
    with pytest.raises(UserError, match=f"stages are not the network: {message}"):
        check_equal(network, [Spoilt(first), last], (), [Example((ROWS,)), Example((ROWS[:3],))])
