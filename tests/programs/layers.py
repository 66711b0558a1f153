"""Layers of drawn programs, each with its forward and backward pass written out for the clock-driven reference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.reference import FURTHER, Weights

SIZE = 4
"""Features between two units, and channels of images, which are 3 x 3."""


class Own(torch.autograd.Function):
    """A linear map that saves its weights as one should."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].T @ x


class Keeping(Own):
    """The same, but recalled weights can't reach what it keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.saved = x, weight
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved
        return gradients[0] @ weight, gradients[0].T @ x


class By(nn.Linear):
    """A linear layer that is computed by a function of its own."""

    def __init__(self, function: Callable[..., Tensor] = F.linear) -> None:
        super().__init__(SIZE, SIZE)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias)


class Hooked(By):
    """Hooks halve its output and double the gradient at its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda layer, args, y: y / 2)
        self.register_full_backward_hook(lambda layer, at_x, at_y: (None if at_x[0] is None else 2 * at_x[0],))


class Skipped(By):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class Twice(By):
    """Tied weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.tanh(super().forward(x)))


class Counter(nn.Module):
    """Scales by a number that depends on how many mini-batches it has seen."""

    def __init__(self, evaluations: bool = False) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.evaluations = evaluations

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training or self.evaluations
        return x * (1 + self.seen % 3 / 10)


class Recurrent(nn.Module):
    """The last h of h = tanh(A x(t) + a + B h)."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.before = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            h = torch.tanh(self.now(step) + self.before(h))
        return h


class Bag(nn.Embedding):
    """The mean of the embeddings of a row's tokens, of which there are six."""

    def __init__(self) -> None:
        super().__init__(6, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(1)


UNITS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Linear(SIZE, SIZE), nn.ReLU()],
    "batch norm": lambda: [nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE), nn.Tanh()],
    "layer norm": lambda: [nn.LayerNorm(SIZE), nn.Linear(SIZE, SIZE), nn.PReLU()],
    "dropout": lambda: [nn.Linear(SIZE, SIZE), nn.Dropout(0.3), nn.Tanh()],
    "counter": lambda: [Counter(), nn.Linear(SIZE, SIZE), nn.Tanh()],
    "counter of evaluations": lambda: [Counter(evaluations=True), nn.Linear(SIZE, SIZE), nn.Tanh()],
    "tied": lambda: [Twice(), nn.Tanh()],
    "skipped in evaluations": lambda: [Skipped(), nn.Tanh()],
    "hooked": lambda: [Hooked(), nn.Tanh()],
    "own function": lambda: [By(lambda x, w, b: Own.apply(x, w) + b), nn.Tanh()],
    "views": lambda: [By(lambda x, w, b: torch.einsum("bi,io->bo", x, w.t()) + b), nn.Tanh()],
    "keeping function": lambda: [By(lambda x, w, b: Keeping.apply(x, w) + b), nn.Tanh()],
    "made weight": lambda: [By(lambda x, w, b: F.linear(x, w * torch.ones_like(w), b)), nn.Tanh()],
    "checkpoint": lambda: [By(partial(checkpoint, F.linear, use_reentrant=False)), nn.Tanh()],
}
"""Units of SIZE features to as many."""
HIDING = ("keeping function", "made weight", "checkpoint")
"""Units that hide their weights from some strategies, which must refuse them."""


def convolution(stride: int) -> list[nn.Module]:
    return [nn.Conv2d(SIZE, SIZE, 3, stride, 1), nn.BatchNorm2d(SIZE), nn.ReLU()]


INPUTS: dict[str, tuple[Callable[[], list[list[nn.Module]]], tuple[int, ...]]] = {
    "features": (lambda: [], (SIZE,)),
    "images": (lambda: [convolution(1), convolution(2), [nn.Flatten(), nn.Linear(4 * SIZE, SIZE)]], (SIZE, 3, 3)),
    "tokens": (lambda: [[Bag()]], (3,)),
    "sequences": (lambda: [[Recurrent()]], (3, SIZE)),
}
"""What a mini-batch holds: the units that make SIZE features of it, and its shape."""

Kept = tuple
Gradients = tuple[Tensor, Weights]


def linear(layer: nn.Module, w: Weights, x: Tensor, scale: float = 1.0) -> tuple[Tensor, Kept]:
    return scale * (x @ w["weight"].T + w["bias"]), (x,)


def linear_backward(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor, scale: float = 1.0) -> Gradients:
    return gy @ w["weight"], {"weight": scale * gy.T @ kept[0], "bias": scale * gy.sum(0)}


def twice(layer: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    middle = torch.tanh(linear(layer, w, x)[0])
    return linear(layer, w, middle)[0], (x, middle)


def twice_backward(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    x, middle = kept
    at_middle, second = linear_backward(layer, w, (middle,), gy)
    gx, first = linear_backward(layer, w, (x,), at_middle * (1 - middle**2))
    return gx, {name: first[name] + second[name] for name in first}


def count(layer: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    layer.seen += 1
    scale = 1 + float(layer.seen) % 3 / 10
    return x * scale, (scale,)


def recurrent(layer: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    states = [x.new_zeros(len(x), SIZE)]
    for step in x.unbind(1):
        states.append(torch.tanh(step @ w["now.weight"].T + w["now.bias"] + states[-1] @ w["before.weight"].T))
    return states[-1], (x, states)


def recurrent_backward(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    x, states = kept
    found, at_inputs = {name: torch.zeros_like(value) for name, value in w.items()}, []
    for t in reversed(range(x.shape[1])):
        inside = gy * (1 - states[t + 1] ** 2)
        found["now.weight"] += inside.T @ x[:, t]
        found["now.bias"] += inside.sum(0)
        found["before.weight"] += inside.T @ states[t]
        at_inputs.insert(0, inside @ w["now.weight"])
        gy = inside @ w["before.weight"]
    return torch.stack(at_inputs, 1), found


def bag_backward(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    (x,) = kept
    rows = (gy / x.shape[1]).repeat_interleave(x.shape[1], 0)
    return gy, {"weight": torch.zeros_like(w["weight"]).index_add(0, x.flatten(), rows)}  # tokens have no gradient


def layer_norm(layer: nn.LayerNorm, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    rate = (x.var(1, unbiased=False, keepdim=True) + layer.eps).rsqrt()
    xhat = (x - x.mean(1, keepdim=True)) * rate
    return xhat * w["weight"] + w["bias"], (xhat, rate)


def layer_norm_backward(layer: nn.LayerNorm, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    (xhat, rate), g = kept, gy * w["weight"]
    gx = (g - g.mean(1, keepdim=True) - xhat * (g * xhat).mean(1, keepdim=True)) * rate
    return gx, {"weight": (gy * xhat).sum(0), "bias": gy.sum(0)}


def prelu_backward(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    (x,) = kept
    return torch.where(x > 0, gy, w["weight"] * gy), {"weight": (gy * x.clamp(max=0)).sum().reshape(1)}


def dropout(layer: nn.Dropout, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    mask = F.dropout(torch.ones_like(x), layer.p)  # of the stage's own random numbers
    return x * mask, (mask,)


def tanh(layer: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Kept]:
    y = torch.tanh(x)
    return y, (1 - y**2,)


def times(layer: nn.Module, w: Weights, kept: Kept, gy: Tensor) -> Gradients:
    return gy * kept[0], {}


FURTHER |= {
    **dict.fromkeys((By, Skipped), (linear, linear_backward)),
    Hooked: (partial(linear, scale=0.5), partial(linear_backward, scale=0.5)),
    Twice: (twice, twice_backward),
    Counter: (count, times),
    Recurrent: (recurrent, recurrent_backward),
    Bag: (lambda layer, w, x: (w["weight"][x].mean(1), (x,)), bag_backward),
    nn.LayerNorm: (layer_norm, layer_norm_backward),
    nn.PReLU: (lambda layer, w, x: (torch.where(x > 0, x, w["weight"] * x), (x,)), prelu_backward),
    nn.Dropout: (dropout, times),
    nn.Tanh: (tanh, times),
}
