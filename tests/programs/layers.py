"""Layers of generated programs, each with its forward and backward pass written out for the clock-driven reference."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests import reference

SIZE = 4
"""Features between two units, and channels of images, which are 3 x 3."""


class OwnFunction(torch.autograd.Function):
    """A linear map that saves its weights as one should."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradients[0] @ weight, gradients[0].T @ x


class Keeping(torch.autograd.Function):
    """The same, but recalled weights can't reach what it keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.x, ctx.weight = x, weight
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0] @ ctx.weight, gradients[0].T @ ctx.x


class By(nn.Linear):
    """A linear layer that is computed by a function of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(SIZE, SIZE)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return LINEAR[self.name](self, x)


LINEAR: dict[str, Callable[[By, Tensor], Tensor]] = {
    "own function": lambda layer, x: OwnFunction.apply(x, layer.weight) + layer.bias,
    "view": lambda layer, x: x @ layer.weight.t() + layer.bias,
    "einsum": lambda layer, x: torch.einsum("bi,oi->bo", x, layer.weight) + layer.bias,
    "keeping": lambda layer, x: Keeping.apply(x, layer.weight) + layer.bias,
    "made weight": lambda layer, x: F.linear(x, layer.weight * torch.ones_like(layer.weight), layer.bias),
    "checkpoint": lambda layer, x: checkpoint(F.linear, x, layer.weight, layer.bias, use_reentrant=False),
}


class Hooked(nn.Linear):
    """Hooks of a module: its output is halved, and the gradient at its input doubled."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)
        self.register_forward_hook(lambda layer, args, y: y / 2)
        self.register_full_backward_hook(lambda layer, at_x, at_y: (None if at_x[0] is None else 2 * at_x[0],))


class Twice(nn.Linear):
    """Tied weights: the same layer twice."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.tanh(super().forward(x)))


class Skipped(nn.Linear):
    """Trains, and is left out of evaluations."""

    def __init__(self) -> None:
        super().__init__(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class Counter(nn.Module):
    """Scales by a number that depends on how many mini-batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return x * (1 + self.seen % 3 / 10)


class Recurrent(nn.Module):
    """h = tanh(A x(t) + B h), from SIZE steps; also a sum along the way, so that every step has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.before = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            h = torch.tanh(self.now(step) + self.before(h))
        return h


class Mean(nn.Module):
    """Over the positions of a sequence (B, positions, SIZE)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Embedding(nn.Embedding):
    """Of six tokens."""

    def __init__(self) -> None:
        super().__init__(6, SIZE)


def linear_backward(layer: nn.Module, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
    return gy @ w["weight"], {"weight": gy.T @ kept[0], "bias": gy.sum(0)}


def twice_forward(layer: nn.Module, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    middle = torch.tanh(x @ w["weight"].T + w["bias"])
    return middle @ w["weight"].T + w["bias"], (x, middle)


def twice_backward(layer: nn.Module, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
    x, middle = kept
    between = gy @ w["weight"] * (1 - middle**2)
    both = {"weight": gy.T @ middle + between.T @ x, "bias": gy.sum(0) + between.sum(0)}
    return between @ w["weight"], both


def counter_forward(layer: nn.Module, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    layer.seen += 1
    scale = 1 + float(layer.seen) % 3 / 10
    return x * scale, (scale,)


def recurrent_forward(layer: nn.Module, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    states = [x.new_zeros(len(x), SIZE)]
    for step in x.unbind(1):
        at = step @ w["now.weight"].T + w["now.bias"] + states[-1] @ w["before.weight"].T
        states.append(torch.tanh(at))
    return states[-1], (x, states)


def recurrent_backward(layer: nn.Module, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
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


def embedding_backward(layer: nn.Module, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
    return gy, {"weight": torch.zeros_like(w["weight"]).index_add(0, kept[0].flatten(), gy.flatten(0, 1))}


def norm_forward(layer: nn.LayerNorm, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    rate = (x.var(1, unbiased=False, keepdim=True) + layer.eps).rsqrt()
    xhat = (x - x.mean(1, keepdim=True)) * rate
    return xhat * w["weight"] + w["bias"], (xhat, rate)


def norm_backward(layer: nn.LayerNorm, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
    xhat, rate = kept
    g = gy * w["weight"]
    gx = (g - g.mean(1, keepdim=True) - xhat * (g * xhat).mean(1, keepdim=True)) * rate
    return gx, {"weight": (gy * xhat).sum(0), "bias": gy.sum(0)}


def prelu_backward(layer: nn.Module, w: dict, kept: tuple, gy: Tensor) -> tuple[Tensor, dict]:
    (x,) = kept
    return torch.where(x > 0, gy, w["weight"] * gy), {"weight": (gy * x.clamp(max=0)).sum().reshape(1)}


def dropout_forward(layer: nn.Dropout, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    mask = F.dropout(torch.ones_like(x), layer.p)  # from the stage's own stream
    return x * mask, (mask,)


def linear(layer: nn.Module, w: dict, x: Tensor) -> tuple[Tensor, tuple]:
    return x @ w["weight"].T + w["bias"], (x,)


reference.FURTHER |= {
    By: (linear, linear_backward),
    Skipped: (linear, linear_backward),
    Hooked: (
        lambda layer, w, x: ((x @ w["weight"].T + w["bias"]) / 2, (x,)),
        lambda layer, w, kept, gy: (gy @ w["weight"], {"weight": gy.T @ kept[0] / 2, "bias": gy.sum(0) / 2}),
    ),
    Twice: (twice_forward, twice_backward),
    Counter: (counter_forward, lambda layer, w, kept, gy: (gy * kept[0], {})),
    Recurrent: (recurrent_forward, recurrent_backward),
    Mean: (lambda layer, w, x: (x.mean(1), (x,)), lambda layer, w, kept, gy: (_spread(gy, kept[0]), {})),
    Embedding: (lambda layer, w, x: (w["weight"][x], (x,)), embedding_backward),
    nn.LayerNorm: (norm_forward, norm_backward),
    nn.PReLU: (lambda layer, w, x: (torch.where(x > 0, x, w["weight"] * x), (x,)), prelu_backward),
    nn.Dropout: (dropout_forward, lambda layer, w, kept, gy: (gy * kept[0], {})),
    nn.Tanh: (
        lambda layer, w, x: ((y := torch.tanh(x)), (y,)),
        lambda layer, w, kept, gy: (gy * (1 - kept[0] ** 2), {}),
    ),
}


def _spread(gy: Tensor, x: Tensor) -> Tensor:
    return (gy / x.shape[1]).unsqueeze(1).expand_as(x)


UNITS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Linear(SIZE, SIZE), nn.ReLU()],
    "batch norm": lambda: [nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE), nn.Tanh()],
    "layer norm": lambda: [nn.LayerNorm(SIZE), nn.Linear(SIZE, SIZE), nn.PReLU()],
    "dropout": lambda: [nn.Linear(SIZE, SIZE), nn.Dropout(0.3), nn.Tanh()],
    "counter": lambda: [Counter(), nn.Linear(SIZE, SIZE), nn.Tanh()],
    "twice": lambda: [Twice()],
    "skipped": lambda: [Skipped(), nn.Tanh()],
    "hooked": lambda: [Hooked(), nn.Tanh()],
    **{name: lambda name=name: [By(name), nn.Tanh()] for name in LINEAR},
}
"""Units of SIZE features to as many."""
HIDING = {"keeping", "made weight", "checkpoint"}
"""Units that hide their weights from some strategies, which must refuse them."""


def convolution(stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(SIZE, SIZE, 3, stride, 1), nn.BatchNorm2d(SIZE), nn.ReLU()]


INPUTS: dict[str, tuple[Callable[[], list[list[nn.Module]]], tuple[int, ...]]] = {
    "features": (lambda: [], (SIZE,)),
    "images": (lambda: [convolution(), convolution(2), [nn.Flatten(), nn.Linear(4 * SIZE, SIZE)]], (SIZE, 3, 3)),
    "tokens": (lambda: [[Embedding(), Mean()]], (3,)),
    "sequences": (lambda: [[Recurrent()]], (3, SIZE)),
}
"""What a mini-batch holds: the units that make SIZE features of it, and its shape."""
