"""The rows of ``experiments.field`` for the clock-driven reference, each written from its paper's equations."""

import math
from dataclasses import dataclass, field

import torch

from tests.reference import Method, Weights


def each(function, *weights: Weights) -> Weights:
    """``function`` of the tensors of every name."""
    return {name: function(*(one[name] for one in weights)) for name in weights[0]}


@dataclass
class Paper(Method):
    """Stashing, or with ``live`` the latest weights in the backward pass, and what else a paper has.

    Where there is no delay a method does nothing.
    """

    live: bool = False
    kept: Weights = field(default_factory=dict)
    group: dict = field(default_factory=dict)

    def backward_weights(self, used_forward, since):
        return self.past[-1] if self.live else used_forward

    def note_update(self, before, after, scaled_gradient):
        self.past.append(after)
        return after

    @property
    def zero(self) -> Weights:
        return each(torch.zeros_like, self.past[0])


class SpecTrain(Paper):
    """``w_fwd = w - lr d v``."""

    def forward_weights(self, latest, optimizer):
        (group,) = optimizer.optimizer.param_groups
        found = dict(zip(latest, optimizer.buffers("momentum_buffer"), strict=True))
        return each(lambda w, v: w - group["lr"] * self.delay * v, latest, found)


def own_step(latest, optimizer):
    """``lr v`` of SGD with momentum, ``lr mhat / (sqrt(vhat) + eps)`` of Adam."""
    (group,) = optimizer.optimizer.param_groups
    if "betas" not in group:
        found = dict(zip(latest, optimizer.buffers("momentum_buffer"), strict=True))
        return each(lambda v: group["lr"] * v, found)
    b1, b2 = group["betas"]
    found = {}
    for name, p in zip(latest, optimizer.weights, strict=True):
        state = optimizer.optimizer.state[p]
        if not state:
            found[name] = torch.zeros_like(p).detach()
            continue
        t = float(state["step"])
        mhat, vhat = state["exp_avg"] / (1 - b1**t), state["exp_avg_sq"] / (1 - b2**t)
        found[name] = group["lr"] * mhat / (vhat.sqrt() + group["eps"])
    return found


class PipeOptim(Paper):
    """``w_fwd = w - d s``, with the optimizer's own step ``s``."""

    def forward_weights(self, latest, optimizer):
        return each(lambda w, s: w - self.delay * s, latest, own_step(latest, optimizer))


@dataclass
class XPipe(Paper):
    """With one micro-batch: ``D - 1 - r // 2`` steps ahead in the forward pass, ``r // 2`` in the backward pass."""

    stages: int = 6

    def forward_weights(self, latest, optimizer):
        if not self.delay:
            return latest
        self.rank = self.stages - 1 - self.delay
        self.kept = own_step(latest, optimizer)
        return each(lambda w, s: w - (self.stages - 1 - self.rank // 2) * s, latest, self.kept)

    def backward_weights(self, used_forward, since):
        if not self.delay:
            return self.past[-1]
        return each(lambda w, s: w - (self.rank // 2) * s, self.past[-1], self.kept)


class LastUpdate(Paper):
    """``w_fwd = w - d (w(t-1) - w(t))``."""

    def forward_weights(self, latest, optimizer):
        if len(self.past) < 2:
            return latest
        return each(lambda w, old: w - self.delay * (old - w), latest, self.past[-2])


@dataclass
class Compensation(Paper):
    """``g + l g g (w - w_used)``, ``l`` fixed or ``scale / sqrt(E[g g] + 1e-7)``."""

    scale: float = 0.2
    adaptive: bool = True

    def optimizers_gradient(self, gradients, used_forward):
        if not self.delay:
            return gradients
        latest, changed = self.past[-1], {}
        for name, w in latest.items():
            g = gradients.get(name, torch.zeros_like(w))  # that of a frozen weight is zero
            self.kept[name] = 0.95 * self.kept.get(name, 0.0) + 0.05 * g * g
            scale = self.scale * (self.kept[name] + 1e-7) ** -0.5 if self.adaptive else self.scale
            changed[name] = g + scale * g * g * (w - used_forward[name])
        return {name: changed[name] for name in gradients}


class GapAware(Paper):
    """``(g + k w) / (1 + |w - w_used| / (lr_max (sqrt(R / (1 - r^t)) + eps)))`` in the place of ``g + k w``."""

    peak = 0.0

    def forward_weights(self, latest, optimizer):
        (self.group,) = optimizer.optimizer.param_groups
        self.peak = max(self.peak, self.group["lr"])
        v = dict(zip(latest, optimizer.buffers("momentum_buffer"), strict=True))
        self.kept = each(lambda r, v: 0.999 * r + 0.001 * v**2, self.kept or self.zero, v)
        return latest

    def optimizers_gradient(self, gradients, used_forward):
        if not self.delay:
            return gradients
        corrected, k = 1 - 0.999 ** len(self.past), self.group["weight_decay"]
        changed = {}
        for name, g in gradients.items():
            w = self.past[-1][name]
            step = self.peak * ((self.kept[name] / corrected) ** 0.5 + 1e-8)
            changed[name] = (g + k * w) / (1 + (w - used_forward[name]).abs() / step) - k * w
        return changed


class SpikeCompensation(Paper):
    """``v <- m v + g``, ``w <- w - lr (a v + b g)``; the optimizer's own step is not used."""

    def forward_weights(self, latest, optimizer):
        (self.group,) = optimizer.optimizer.param_groups
        return latest

    def note_update(self, before, after, scaled_gradient):
        if self.delay:
            m, lr, k = (self.group[name] for name in ("momentum", "lr", "weight_decay"))
            a, b = m**self.delay, (1 - m**self.delay) / (1 - m)
            g = each(lambda s, w: s / lr + k * w, scaled_gradient, before)
            self.kept = each(lambda v, g: m * v + g, self.kept or self.zero, g)
            after = each(lambda w, v, g: w - lr * (a * v + b * g), before, self.kept, g)
        return super().note_update(before, after, scaled_gradient)


@dataclass
class ErrorFeedback(Paper):
    """``w - u(t) - c (u(t) - u(t-1))``, from the second update on."""

    by_delay: bool = False

    def note_update(self, before, after, scaled_gradient):
        update, c = each(torch.sub, before, after), self.delay if self.by_delay else 1
        if self.delay and self.kept:
            after = each(lambda w, u, old: w - c * (u - old), after, update, self.kept)
        self.kept = update
        return super().note_update(before, after, scaled_gradient)


@dataclass
class PipeMare(Paper):
    """T1: a rate of ``lr / d^(1 - min(t / T, 1))``. T2: ``w - n delta``, ``delta <- G delta + (1 - G) (w_new - w)``."""

    until: int = 0
    corrects: bool = False

    def backward_weights(self, used_forward, since):
        if not (self.corrects and self.kept):
            return super().backward_weights(used_forward, since)
        return each(lambda w, delta: w - since * delta, self.past[-1], self.kept)

    def note_update(self, before, after, scaled_gradient):
        if self.delay and self.until:
            t = len(self.past) - 1
            share = self.delay ** -(1 - min(t / self.until, 1))
            after = each(lambda w, new: w + share * (new - w), before, after)
        if self.delay:
            gain = math.exp(-2) ** (1 / self.delay)
            moved = each(torch.sub, after, before)
            self.kept = each(lambda delta, s: gain * delta + (1 - gain) * s, self.kept or self.zero, moved)
        return super().note_update(before, after, scaled_gradient)


@dataclass
class Nesterov(Paper):
    """``d = m (w - w_before)``; forward passes read ``w + d``; ``w <- w + d - lr (1 - m) g``. At every stage."""

    momentum: float = 0.99

    def ahead(self) -> Weights:
        """``d(t)``."""
        newest = self.past[-2:]
        return each(lambda old, w: self.momentum * (w - old), newest[0], newest[-1])

    def forward_weights(self, latest, optimizer):
        return each(torch.add, latest, self.ahead())

    def note_update(self, before, after, scaled_gradient):
        after = each(lambda w, d, s: w + d - (1 - self.momentum) * s, before, self.ahead(), scaled_gradient)
        return super().note_update(before, after, scaled_gradient)
