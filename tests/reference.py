"""The pipeline as a machine with a clock, written to be read. Everything fast is held against it.

One tick at a time, activations travel one stage down and gradients one stage up. A stage does not know the delay law:
it stores what its forward pass saw, waits until the gradient comes back, and only then computes its backward pass
with the weights that its method gives, and updates. Every layer's forward and backward pass is written out, so that
nothing here depends on autograd or on how a backward pass can be made to use other weights.

The delays come out of the clock: a mini-batch's forward pass at stage k reads weights that have seen as many updates
as gradients have come back by then. Where several mini-batches make an update, each stage adds up their gradients and
updates when the last of them has come back; a mini-batch may then miss fewer updates than one that came before it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.spiking import Neurons, Readout
from layerpipe2.strategies import NamedStrategy, State, begin, count, find_strategy
from layerpipe2.strategies.pair import Pair

Weights = dict[str, Tensor]

# clock: (number of stages, stage) -> ticks between mini-batches, tick of the first forward, of the first backward
Clock = Callable[[int, int], tuple[int, int, int]]
CLOCKS: dict[str, Clock] = {
    "layerpipe2": lambda K, k: (1, k, 2 * (K - 1) - k),
    "pipedream": lambda K, k: (2, k, 2 * K - 1 - k),
}


def clock_of(convention: str) -> Clock:
    """A clock of the reference's own, or that of a law that it does not know."""
    return CLOCKS.get(convention) or DELAY_LAWS[convention].clock


def delay_of(ticks: tuple[int, int, int]) -> int:
    """How many gradients a forward pass misses: batches whose backward tick does not come before its own forward tick.

    ``backward + period b < forward + period t`` holds for ``t - (backward - forward) // period`` batches b >= 0.
    """
    period, forward, backward = ticks
    return (backward - forward) // period


def halved(below: Callable[[float], bool]) -> float:
    """Where ``below`` turns from true to false in [0, 1]; 0 if it is nowhere true."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


DECAYS: dict[str, Callable[[int], float]] = {
    "ema-0.9": lambda n: 0.9,
    "ema-window": lambda n: (n - 1) / n,
    "ema-running": lambda n: n / (n + 1),
    "ema-span": lambda n: (n - 1) / (n + 1),
    "ema-lsq": lambda n: halved(lambda b: b ** (n - 1) * (1 + b) ** 2 < 1),
}
CORRELATIONS: dict[str, float | None] = {"pair": None, "pair-0.9": 0.9}


FURTHER: dict[type[nn.Module], tuple[Callable, Callable]] = {}
"""Forward and backward pass of layers that other files write out."""


def forward_layer(layer: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, tuple]:
    """Output of one layer with weights ``w``, and what its backward pass must remember beside the weights."""
    if type(layer) in FURTHER:
        return FURTHER[type(layer)][0](layer, w, x)
    if isinstance(layer, nn.Linear):
        return x @ w["weight"].T + w["bias"], (x,)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, w["weight"], w["bias"], layer.stride, layer.padding), (x,)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        dims, one = _channels(x)
        mean, var = x.mean(dims), x.var(dims, unbiased=False)
        n = x.numel() // x.shape[1]
        layer.running_mean.mul_(1 - layer.momentum).add_(mean * layer.momentum)
        layer.running_var.mul_(1 - layer.momentum).add_(var * n / (n - 1) * layer.momentum)
        rate = (var + layer.eps).rsqrt()
        xhat = (x - mean.view(one)) * rate.view(one)
        return xhat * w["weight"].view(one) + w["bias"].view(one), (xhat, rate)
    if isinstance(layer, nn.ReLU):
        return x.clamp(min=0), (x > 0,)
    if isinstance(layer, nn.Flatten):
        return x.flatten(1), (x.shape,)
    if isinstance(layer, Neurons):
        return neurons_forward(layer, x)
    if isinstance(layer, Readout):  # by rate
        rates = torch.stack(x.chunk(layer.steps)).mean(0)
        return rates @ w["layer.weight"].T + w["layer.bias"], (rates,)
    raise TypeError(f"the reference has no {type(layer).__name__}")


def backward_layer(layer: nn.Module, w: Weights, kept: tuple, gy: Tensor) -> tuple[Tensor, Weights]:
    """Gradient at the input, computed with weights ``w``, and gradients of the weights."""
    if type(layer) in FURTHER:
        return FURTHER[type(layer)][1](layer, w, kept, gy)
    if isinstance(layer, nn.Linear):
        (x,) = kept
        return gy @ w["weight"], {"weight": gy.T @ x, "bias": gy.sum(0)}
    if isinstance(layer, nn.Conv2d):
        (x,) = kept
        how = {"stride": layer.stride, "padding": layer.padding}
        gx = nn.grad.conv2d_input(x.shape, w["weight"], gy, **how)
        gw = nn.grad.conv2d_weight(x, w["weight"].shape, gy, **how)
        return gx, {"weight": gw, "bias": gy.sum((0, 2, 3))}
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        xhat, rate = kept
        dims, one = _channels(gy)
        g = gy * w["weight"].view(one)
        centred = g - g.mean(dims, keepdim=True) - xhat * (g * xhat).mean(dims, keepdim=True)
        return centred * rate.view(one), {"weight": (gy * xhat).sum(dims), "bias": gy.sum(dims)}
    if isinstance(layer, nn.ReLU):
        return gy * kept[0], {}
    if isinstance(layer, Neurons):
        return neurons_backward(layer, kept[0], gy), {}
    if isinstance(layer, Readout):
        (rates,) = kept
        gx = gy @ w["layer.weight"] / layer.steps
        return gx.repeat(layer.steps, 1), {"layer.weight": gy.T @ rates, "layer.bias": gy.sum(0)}
    return gy.reshape(kept[0]), {}  # Flatten


def _channels(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions that BatchNorm averages over, and the shape of its weights beside ``x``."""
    return (0, *range(2, x.ndim)), (1, -1, *(1 for _ in range(2, x.ndim)))


def neurons_forward(layer: Neurons, x: Tensor) -> tuple[Tensor, tuple]:
    """One pole, reset by subtraction: V(t) = b V(t - 1) + x(t) - threshold s(t - 1)."""
    b, threshold = layer.neuron.membrane_decay, layer.neuron.threshold
    inputs = [x] * layer.steps if layer.constant else x.chunk(layer.steps)
    membrane, spikes, membranes = torch.zeros_like(inputs[0]), torch.zeros_like(inputs[0]), []
    for now in inputs:
        membrane = b * membrane + now - threshold * spikes
        spikes = (membrane > threshold).to(x)
        membranes.append(membrane)
    return torch.cat([(m > threshold).to(x) for m in membranes]), (membranes,)


def neurons_backward(layer: Neurons, membranes: list[Tensor], gy: Tensor) -> Tensor:
    """Fast sigmoid for the derivative of a spike; the reset is taken for a constant."""
    b, threshold, slope = layer.neuron.membrane_decay, layer.neuron.threshold, layer.neuron.slope
    gradient, found = torch.zeros_like(membranes[0]), []
    for membrane, g in zip(reversed(membranes), reversed(gy.chunk(layer.steps)), strict=True):
        gradient = g / (1 + slope * (membrane - threshold).abs()) ** 2 + b * gradient
        found.insert(0, gradient)
    return torch.stack(found).sum(0) if layer.constant else torch.cat(found)


@dataclass
class Method:
    """What a stage remembers of its past, written straight from the definitions in ``layerpipe2.strategies``'s text."""

    strategy: NamedStrategy
    delay: int  # in updates, the longest
    past: list[Weights]  # W(0), W(1), ...: `stash` and `pair` look at old ones
    average: Weights = field(default_factory=dict)

    def forward_weights(self, latest: Weights, optimizer: Any) -> Weights:
        return latest

    def optimizers_gradient(self, gradients: Weights, used_forward: Weights) -> Weights:
        return gradients

    def backward_weights(self, used_forward: Weights, since: int) -> Weights:
        """``since``: updates since the forward pass; any number from the delay on says that it was a delay ago."""
        latest = self.past[-1]
        if self.delay == 0 or self.strategy.family == "latest":
            return latest
        if self.strategy.exact:
            return used_forward
        if self.strategy.family == "pair":
            t = len(self.past) - 1
            return self.pair(t) if t > self.delay else used_forward  # filling: exact
        n = min(since, self.delay)
        return {k: latest[k] + n * self.average[k] for k in latest} if n else latest

    def pair(self, t: int) -> Weights:
        """W(t) + x A + y u(t-1), with A an average of u(0) .. u(t-2), all of it computed anew from the old weights."""
        table = Pair(correlation=CORRELATIONS[self.strategy.plain]).table(self.delay)
        u = [{k: a[k] - b[k] for k in a} for a, b in itertools.pairwise(self.past)]
        average = previous = {k: torch.zeros_like(w) for k, w in u[0].items()}
        cross = square = 0.0
        for j in range(t):
            cross = 0.99 * cross + 0.01 * _dot(u[j], previous)
            square = 0.99 * square + 0.01 * (_dot(u[j], u[j]) + _dot(previous, previous)) / 2
            m = min(max(cross / square, 0.0), 0.999) if square else 0.0  # a frozen stage does not move
            gain, x, y = table[min(len(table) - 1, round(-math.log(1 - m) / 0.2))]
            gain = gain if j >= self.delay else 1 / max(1, j)
            average = {k: (1 - gain) * average[k] + gain * previous[k] for k in average}
            previous = u[j]
        return {k: w + x * average[k] + y * previous[k] for k, w in self.past[t].items()}

    def note_update(self, before: Weights, after: Weights, scaled_gradient: Weights) -> Weights:
        """The weights after the update; remembers it."""
        update = scaled_gradient if self.strategy.raw else {k: before[k] - after[k] for k in after}
        if self.delay and self.strategy.family == "average":
            seen = len(self.past) - 1
            beta = DECAYS[self.strategy.plain](min(seen + 1, self.delay)) if seen else 0.0
            old = self.average or {k: torch.zeros_like(u) for k, u in update.items()}
            self.average = {k: beta * old[k] + (1 - beta) * update[k] for k in update}
        self.past.append(after)
        return after


class ReferenceOptimizer:
    """What a strategy asks of an optimizer, all weights of the stage as one vector."""

    def __init__(self, optimizer: Any, weights: list[nn.Parameter], frozen: list[bool]) -> None:
        self.optimizer, self.weights, self.frozen = optimizer, weights, frozen
        self.kind = type(optimizer).__name__

    def rate(self) -> Tensor:
        maximize = any(group.get("maximize") for group in self.optimizer.param_groups)
        return -self.setting("lr") if maximize else self.setting("lr")

    def setting(self, name: str) -> Tensor:
        key, _, entry = name.partition(".")
        find = lambda group: group[key][int(entry)] if entry else group[key]  # noqa: E731
        own = {w: find(group) for group in self.optimizer.param_groups for w in group["params"]}
        return torch.cat([torch.full_like(w, own[w]).flatten() for w in self.weights]).detach()

    def state(self, name: str) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self.buffers(name)])

    def buffers(self, name: str) -> list[Tensor]:
        """By parameter; zero for those that are frozen or were never updated."""
        known = [self.optimizer.state[w].get(name) for w in self.weights]
        none = [b is None or frozen for b, frozen in zip(known, self.frozen, strict=True)]
        return [torch.zeros_like(w) if no else b for b, w, no in zip(known, self.weights, none, strict=True)]


@dataclass
class NewMethod(Method):
    """A strategy that the reference has no formula for: its own code, on all weights of the stage as one vector."""

    def __post_init__(self) -> None:
        self.own = self.strategy.make()
        self.state: State = begin(self.own, _flat(self.past[0]), self.delay) if self.delay else {}

    def forward_weights(self, latest: Weights, optimizer: Any) -> Weights:
        if self.delay == 0:
            return latest
        return _like(self.own.forward(self.state, _flat(latest), optimizer), latest)

    def backward_weights(self, used_forward: Weights, since: int) -> Weights:
        latest = self.past[-1]
        if self.delay == 0:
            return latest
        self.state["lag"].fill_(since)
        return _like(self.own.backward(self.state, _flat(latest), _flat(used_forward)), latest)

    def optimizers_gradient(self, gradients: Weights, used_forward: Weights) -> Weights:
        latest = self.past[-1]
        if self.delay == 0:
            return gradients
        whole = {name: gradients.get(name, torch.zeros_like(w)) for name, w in latest.items()}
        changed = _like(self.own.gradient(self.state, _flat(whole), _flat(latest), _flat(used_forward)), latest)
        return {name: changed[name] for name in gradients}

    def note_update(self, before: Weights, after: Weights, scaled_gradient: Weights) -> Weights:
        if self.delay:
            after = _like(self.own.update(self.state, _flat(before), _flat(after)), after)
            count(self.state, self.delay)
        self.past.append(after)
        return after


def make_method(name: str | Callable[[int, Weights], Method], delay: int, start: Weights) -> Method:
    """Independent of the package where the reference knows the method or is given it, else around its code."""
    if not isinstance(name, str):
        return name(delay, start)
    strategy = find_strategy(name)
    known = strategy.exact or strategy.family == "latest" or strategy.plain in {*DECAYS, *CORRELATIONS}
    return (Method if known else NewMethod)(strategy, delay, [start])


class Stage:
    """A stage of the machine: layers, the latest weights (those of ``module``), mini-batches in flight.

    A mini-batch in flight is what its forward pass read, after how many updates, and what its layers remember.
    """

    def __init__(
        self,
        module: nn.Sequential,
        make_optimizer: Callable,
        strategy: str | Callable[[int, Weights], Method],
        delay: int,
        frozen: Callable[[int, str], bool] = lambda batch, name: False,
        accumulate: int = 1,
    ) -> None:
        self.frozen, self.accumulate = frozen, accumulate
        self.layers = list(module)
        self.module = module
        self.optimizer = make_optimizer(module.parameters()) if list(module.parameters()) else None
        self.method = make_method(strategy, delay, self.weights())
        self.in_flight: dict[int, tuple[Weights, int, list[tuple]]] = {}
        self.shown: Weights | None = None
        self.gathered: Weights = {}

    @property
    def updates(self) -> int:
        return len(self.method.past) - 1

    def chosen(self, lr: float) -> Weights:
        """What forward passes read until the next update; the method is asked once."""
        if self.shown is None:
            self.set_rate(lr)
            named = dict(self.module.named_parameters())
            frozen = [self.frozen(self.updates * self.accumulate, name) for name in named]  # as the next update has it
            view = ReferenceOptimizer(self.optimizer, list(named.values()), frozen)
            self.shown = self.method.forward_weights(self.weights(), view)
        return self.shown

    def set_rate(self, lr: float) -> None:
        """``lr``, times the ``factor`` of a group that has one."""
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            group["lr"] = lr * group.get("factor", 1.0)

    def weights(self) -> Weights:
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def forward(self, batch: int, x: Tensor, lr: float) -> Tensor:
        w, kept = self.chosen(lr), []
        for i, layer in enumerate(self.layers):
            x, memory = forward_layer(layer, _of(w, i), x)
            kept.append(memory)
        self.in_flight[batch] = (w, self.updates, kept)
        return x

    def backward(self, batch: int, gy: Tensor, lr: float, clip: float | None) -> Tensor:
        self.chosen(lr)  # a strategy is asked before every update, also when no mini-batch comes in any more
        used_forward, then, kept = self.in_flight.pop(batch)
        w = self.method.backward_weights(used_forward, self.updates - then)
        gradients: Weights = {}
        for i in reversed(range(len(self.layers))):
            gy, g = backward_layer(self.layers[i], _of(w, i), kept[i], gy)
            gradients |= {f"{i}.{name}": value for name, value in g.items()}
        for name, g in gradients.items():
            if not self.frozen(batch, name):
                self.gathered[name] = self.gathered[name] + g if name in self.gathered else g
        if self.optimizer is not None and (batch + 1) % self.accumulate == 0:
            self.update(batch, self.gathered, used_forward, lr, clip)
            self.gathered, self.shown = {}, None
        return gy

    def update(self, batch: int, gradients: Weights, used_forward: Weights, lr: float, clip: float | None) -> None:
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        scale = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        before = self.weights()
        clipped = {name: g * scale for name, g in gradients.items()}
        wanted = self.method.optimizers_gradient(clipped, used_forward)
        for name, p in self.module.named_parameters():
            p.grad = wanted.get(name)
        self.set_rate(lr)
        self.optimizer.step()
        rates = {p: group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        scaled = {
            name: rates[p] * scale * gradients[name] if name in gradients else torch.zeros_like(p).detach()
            for name, p in self.module.named_parameters()
        }
        latest = self.weights()
        after = self.method.note_update(before, latest, scaled)
        after |= {name: w for name, w in latest.items() if self.frozen(batch, name)}  # a method doesn't move them
        with torch.no_grad():
            for name, p in self.module.named_parameters():
                p.copy_(after[name])


def run_clocked(
    modules: list[nn.Sequential],
    batches: list[tuple[Tensor, Tensor]],
    *,
    strategy: str | Callable[[int, Weights], Method],
    convention: str,
    make_optimizer: Callable,
    lr_of: Callable[[int], float],
    clip: float | None = None,
    frozen: Callable[[int, int, str], bool] = lambda stage, batch, name: False,
    accumulate: int = 1,
) -> list[float]:
    """Train through all ``batches`` until the pipeline is empty; the losses by mini-batch. Changes ``modules``.

    ``lr_of``: number of updates before -> rate of an update, which the mean gradient of ``accumulate`` mini-batches
    makes. A parameter that is ``frozen`` when a mini-batch comes back gets no gradient of it.
    """
    K, clock = len(modules), clock_of(convention)
    delays = [math.ceil(delay_of(clock(K, k)) / accumulate) for k in range(K)]
    stages = [
        Stage(m, make_optimizer, strategy, delays[k], partial(frozen, k), accumulate) for k, m in enumerate(modules)
    ]
    return tick_through(stages, batches, clock, lr_of, clip)


def tick_through(
    stages: list[Stage],
    batches: list[tuple[Tensor, Tensor]],
    clock: Clock,
    lr_of: Callable[[int], float],
    clip: float | None,
) -> list[float]:
    """Until the pipeline is empty; the losses by mini-batch."""
    K = len(stages)
    down: dict[tuple[int, int], Tensor] = {}  # (stage, batch) -> its input
    up: dict[tuple[int, int], Tensor] = {}  # (stage, batch) -> gradient at its output
    losses: dict[int, float] = {}
    last = max(backward + period * (len(batches) - 1) for period, _, backward in map(partial(clock, K), range(K)))
    for tick in range(last + 1):
        for k, stage in enumerate(stages):
            period, first_forward, first_backward = clock(K, k)
            t, phase = divmod(tick - first_forward, period)
            if phase == 0 and 0 <= t < len(batches):
                y = stage.forward(t, batches[t][0] if k == 0 else down.pop((k, t)), lr_of(stage.updates))
                if k + 1 < K:
                    down[k + 1, t] = y
                else:
                    losses[t], gradient = _cross_entropy(y, batches[t][1])
                    up[k, t] = gradient / stage.accumulate
            t, phase = divmod(tick - first_backward, period)
            if phase == 0 and 0 <= t < len(batches):
                up[k - 1, t] = stage.backward(t, up.pop((k, t)), lr_of(stage.updates), clip)
    assert not down
    assert len(losses) == len(batches)
    assert not any(stage.in_flight or stage.gathered for stage in stages)
    return [losses[t] for t in range(len(batches))]


def _cross_entropy(logits: Tensor, y: Tensor) -> tuple[float, Tensor]:
    p = logits.softmax(1)
    loss = -p[range(len(y)), y].log().mean()
    return float(loss), (p - F.one_hot(y, logits.shape[1])) / len(y)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([w.flatten() for w in weights.values()])


def _like(flat: Tensor, weights: Weights) -> Weights:
    parts = flat.split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}


def _dot(a: Weights, b: Weights) -> float:
    return sum(float((a[k] * b[k]).sum()) for k in a)


def _of(weights: Weights, layer: int) -> Weights:
    return {n.split(".", 1)[1]: w for n, w in weights.items() if n.split(".", 1)[0] == str(layer)}
