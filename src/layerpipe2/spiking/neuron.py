"""One neuron: a two-pole IIR filter of its input, a threshold, and a reset.

With ``x(t)`` the input, ``a`` and ``b`` the decays of synapse and membrane, and ``θ`` the threshold:

    I(t) = a I(t - 1) + x(t)                        synapse
    V(t) = b V(t - 1) + I(t) - θ s(t - 1)           membrane, reset by subtraction
    V(t) = b V(t - 1) (1 - s(t - 1)) + I(t)         membrane, reset to zero
    V(t) = b V(t - 1) + I(t)                        membrane, without reset
    s(t) = 1 if V(t) > θ else 0                     spike

starting at rest, I = V = s = 0. For ``a`` = 0 the neuron has one pole. Subtraction is that of snntorch's ``Leaky`` (one
pole) and ``Synaptic`` (two): the neuron's own spikes are fed back into its filter one step later. The reset to zero is
that of lava's CUBA neuron and of spikingjelly's ``LIFNode(decay_input=False)``.

**Gradient.** Let g(t) be the gradient that arrives at s(t), and σ' the surrogate derivative of the spike. With the
reset's s(t - 1) taken for a constant, the gradients λ of V and μ of I (which is that of x) follow from the recursions
read backwards:

    λ(t) = σ'(V(t) - θ) g(t) + b k(t) λ(t + 1)      k(t) = 1 - s(t) for a reset to zero, else 1
    μ(t) = λ(t) + a μ(t + 1)

That is the filter of the forward pass run backwards in time (:mod:`layerpipe2.spiking.fire`).

**What is cut off.** The reset depends on the spike, and so on V. Of ∂V(t + 1)/∂V(t) the term that goes through s(t) is
dropped: -θ σ'(V(t) - θ) for subtraction, -b V(t) σ'(V(t) - θ) for a reset to zero; nothing without reset. This is where
the common libraries cut, too: snntorch by default, spikingjelly with ``detach_reset=True``. Zenke and Vogels 2021 (doi
10.1162/neco_a_01367) compare both.

**The surrogate** stands for the derivative of a step function, which is zero or infinite. All are 1 at the threshold
and fall with the distance ``u`` of the membrane from it, the faster the steeper their slope ``k`` is: fast sigmoid
(Zenke and Ganguli 2018, arXiv 1705.11146), arctan (Fang et al. 2021, arXiv 2007.05785), triangle (Esser et al. 2016,
arXiv 1603.08270).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from layerpipe2.errors import UserError, look_up, shown

Surrogate = Callable[[Tensor, float], Tensor]


def fast_sigmoid(u: Tensor, slope: float) -> Tensor:
    """Return 1 / (1 + k |u|)², the derivative of u / (1 + k |u|)."""
    return u.abs().mul_(slope).add_(1).square_().reciprocal_()


def arctan(u: Tensor, slope: float) -> Tensor:
    """Return 1 / (1 + (k u)²), the derivative of the arctan of k u, divided by k."""
    return (u * slope).square_().add_(1).reciprocal_()


def triangle(u: Tensor, slope: float) -> Tensor:
    """Return max(0, 1 - k |u|), which is zero from a distance of 1 / k on."""
    return u.abs().mul_(-slope).add_(1).clamp_(min=0)


SURROGATES: dict[str, Surrogate] = {"fast-sigmoid": fast_sigmoid, "arctan": arctan, "triangle": triangle}
"""Name -> (distance from the threshold, any shape; slope) -> derivative, a new tensor of that shape."""
RESETS = {
    "subtract": "a spike lowers the membrane by the threshold",
    "zero": "a spike empties the membrane",
    "none": "a spike leaves the membrane as it is",
}


@dataclass(frozen=True)
class Neuron:
    """The constants of a neuron.

    Attributes:
        membrane_decay, synapse_decay: ``b`` and ``a``, the share that is left after a time step, in [0, 1).
        threshold: ``θ``, above zero, in the unit of the membrane.
        reset: a key of :data:`RESETS`.
        surrogate: a key of :data:`layerpipe2.spiking.SURROGATES`.
        slope: of the surrogate, above zero, per unit of the membrane.

    Raises:
        UserError: if one is not what it may be.
    """

    membrane_decay: float = 0.5
    synapse_decay: float = 0.0
    threshold: float = 1.0
    reset: str = "subtract"
    surrogate: str = "fast-sigmoid"
    slope: float = 1.0

    def __post_init__(self) -> None:
        for name in ("membrane_decay", "synapse_decay"):
            if not 0 <= _number(self, name) < 1:
                raise UserError(f"{name} is {shown(getattr(self, name))}; give a number >= 0 and < 1")
        for name in ("threshold", "slope"):
            if not 0 < _number(self, name) < float("inf"):
                raise UserError(f"{name} is {shown(getattr(self, name))}; give a finite number > 0")
        look_up(RESETS, self.reset, "reset")
        look_up(SURROGATES, self.surrogate, "surrogate")

    def derivative(self, membrane: Tensor) -> Tensor:
        """Return the surrogate derivative of the spikes with respect to the membrane, of its shape."""
        return SURROGATES[self.surrogate](membrane - self.threshold, self.slope)


def _number(neuron: Neuron, name: str) -> float:
    value = getattr(neuron, name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


class State(NamedTuple):
    """What a neuron remembers from one time step to the next: I and V, of the shape of its input."""

    current: Tensor
    membrane: Tensor


def at_rest(x: Tensor) -> State:
    """Return the state before the first time step, of neurons that receive ``x`` in each."""
    return State(torch.zeros_like(x), torch.zeros_like(x))


def step(neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Do one time step by plain autograd: input (...) and state -> spikes (...) and the next state."""
    current = torch.add(x, state.current, alpha=neuron.synapse_decay)
    fired = state.membrane > neuron.threshold  # a comparison has no gradient: here the reset's is cut off
    kept = state.membrane.masked_fill(fired, 0) if neuron.reset == "zero" else state.membrane
    membrane = torch.add(current, kept, alpha=neuron.membrane_decay)
    if neuron.reset == "subtract":
        membrane = torch.sub(membrane, fired.to(x.dtype), alpha=neuron.threshold)
    return spike(neuron, membrane), State(current, membrane)


def spike(neuron: Neuron, membrane: Tensor) -> Tensor:
    """Return 1 where the membrane is above the threshold, else 0; the surrogate is its derivative."""
    slope = neuron.derivative(membrane.detach())
    linear = slope * membrane
    return (membrane > neuron.threshold).to(membrane.dtype) + (linear - linear.detach())  # adds an exact zero


def check(x: Tensor) -> None:
    """Check inputs over time.

    Raises:
        UserError: without a time step, or if not of floating point.
    """
    if x.ndim < 1 or not len(x):
        raise UserError(f"neurons are given inputs of shape {list(x.shape)}; give (time steps, ...), one step or more")
    if not x.is_floating_point():
        raise UserError(f"neurons are given inputs of {x.dtype}; give a floating-point type")


def unrolled(neuron: Neuron, x: Tensor) -> Tensor:
    """Run neurons from rest over all time steps by plain autograd: inputs (T, ...) -> spikes (T, ...).

    What :func:`layerpipe2.spiking.fire` is compared with.

    Raises:
        UserError: without a time step, or if not of floating point.
    """
    check(x)
    state, spikes = at_rest(x[0]), []
    for now in x.unbind():
        fired, state = step(neuron, now, state)
        spikes.append(fired)
    return torch.stack(spikes)
