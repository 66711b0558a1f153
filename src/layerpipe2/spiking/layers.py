"""Layers that make an ordinary network a spiking one: coding in front, neurons in place of ReLUs, a read-out behind.

Time and batch share the first dimension, time outside: a network hands on (T N, ...), of which ``view(T, N, ...)`` is
the spikes over time. So every layer that treats the samples of a batch alike (linear, convolution, pooling) also treats
all time steps alike, unchanged, and batch normalisation normalises over both. In front, and behind the read-out, there
are batches of N samples as in any network. No layer keeps anything from one batch to the next: neurons start at rest.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from layerpipe2.errors import MOST_STEPS, UserError, integer, look_up
from layerpipe2.spiking.coding import CODINGS
from layerpipe2.spiking.fire import fire, integrate
from layerpipe2.spiking.lean import SpikePool, can_fire_normalised, fire_normalised
from layerpipe2.spiking.neuron import Neuron

READOUTS = {
    "membrane": "mean membrane over time of output neurons that never fire",
    "rate": "weighted firing rates of the last neurons",
}


def over_time(x: Tensor, steps: int) -> Tensor:
    """View (T N, ...) as (T, N, ...).

    Raises:
        UserError: if the first dimension is no multiple of T.
    """
    if x.ndim < 1 or len(x) % steps:
        raise UserError(f"neurons of {steps} time steps are given {list(x.shape)}; give (time steps x samples, ...)")
    return x.view(steps, len(x) // steps, *x.shape[1:])


class Coded(nn.Module):
    """Images (N, C, H, W) -> (T N, C, H, W) by one of ``layerpipe2.spiking.CODINGS``; (T N, C, H, 1) for columns.

    Raises:
        UserError: on an unknown coding, or a number of steps or a seed out of range.
    """

    def __init__(self, coding: str, steps: int, seed: int = 0) -> None:
        super().__init__()
        look_up(CODINGS, coding, "coding")
        self.coding, self.steps = coding, integer(steps, "time_steps", 1, MOST_STEPS)
        self.seed = integer(seed, "seed of the coding", 0, 2**32 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Code a batch.

        Raises:
            UserError: if the images are not of floating point, or not as wide as there are steps, with columns.
        """
        if not x.is_floating_point():
            raise UserError(f"images to be coded are of {x.dtype}; give a floating-point type")
        return CODINGS[self.coding](x, self.steps, self.seed).flatten(0, 1)


class Neurons(nn.Module):
    """A neuron for every feature, from rest: inputs (T N, ...) -> spikes (T N, ...).

    Args:
        neuron: their constants.
        steps: T.
        constant: the input is (N, ...), the same in all steps: layers before it run once, not T times.

    Attributes:
        run: ``fire``; ``unrolled`` gives the same by plain autograd.

    Raises:
        UserError: on a number of steps out of range.
    """

    def __init__(self, neuron: Neuron, steps: int, *, constant: bool = False) -> None:
        super().__init__()
        self.neuron, self.steps, self.constant = neuron, integer(steps, "time_steps", 1, MOST_STEPS), constant
        self.run: Callable[[Neuron, Tensor], Tensor] = fire

    def forward(self, x: Tensor) -> Tensor:
        """Run them over all time steps."""
        return self.run(self.neuron, self.over_time(x)).flatten(0, 1)

    def over_time(self, x: Tensor) -> Tensor:
        """View inputs as (T, N, ...)."""
        return x.expand(self.steps, *x.shape) if self.constant else over_time(x, self.steps)


class Normalised(nn.Sequential):
    """Layers that end with batch normalisation and neurons, which run as one where that changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Run them over all time steps."""
        layers = list(self)
        norm, neurons = cast(nn.BatchNorm2d, layers[-2]), cast(Neurons, layers[-1])
        for layer in layers[:-2]:
            x = layer(x)
        if neurons.run is fire and can_fire_normalised(norm, x):
            return fire_normalised(neurons.neuron, norm, x, neurons.over_time)
        spikes: Tensor = neurons(norm(x))
        return spikes


class Readout(nn.Module):
    """A linear layer on spikes (T N, ...), and its result over time -> logits (N, classes).

    Args:
        layer: linear in its input, such as ``nn.Linear``, also behind an average pooling.
        neuron: of the read-out by membrane; it never fires.
        steps: T.
        kind: a key of :data:`READOUTS`.

    Raises:
        UserError: on an unknown kind.
    """

    def __init__(self, layer: Callable[[Tensor], Tensor], neuron: Neuron, steps: int, kind: str = "membrane") -> None:
        super().__init__()
        look_up(READOUTS, kind, "readout")
        self.layer, self.neuron, self.kind = layer, neuron, kind
        self.steps = integer(steps, "time_steps", 1, MOST_STEPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        if self.kind == "rate":
            return self.layer(over_time(x, self.steps).mean(0))
        return integrate(self.neuron, over_time(self.layer(x), self.steps)).mean(0)


def spiking(unit: nn.Module, neurons: Callable[[], Neurons]) -> nn.Module:
    """Put neurons in place of every ReLU in ``unit``, itself included, wherever one is used again.

    Batch normalisation and max pooling before and behind them then keep less for the backward pass, to the same result.
    """
    if isinstance(unit, nn.ReLU):
        return neurons()
    for name, part in unit._modules.items():  # named_children() leaves out a module's second place
        if part is not None:
            setattr(unit, name, spiking(part, neurons))
    if type(unit) is nn.Sequential and len(unit) > 1:
        before, last = list(unit)[-2:]
        if type(before) is nn.BatchNorm2d and isinstance(last, Neurons):
            return Normalised(OrderedDict(unit._modules))
        if isinstance(before, Neurons | Normalised) and _pools_by_two(last):
            unit[-1] = SpikePool()
    return unit


def _pools_by_two(layer: nn.Module) -> bool:
    """Say whether it is ``nn.MaxPool2d(2)``."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return type(layer) is nn.MaxPool2d and all(getattr(layer, n) == getattr(nn.MaxPool2d(2), n) for n in names)
