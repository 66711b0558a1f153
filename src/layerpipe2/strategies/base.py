"""What a strategy is: four places in a mini-batch's way through a stage, and the state that they share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.strategies.moments import Updates

State = dict[str, Tensor]
Place = Literal["forward", "backward", "gradient", "update"]
"""Where a strategy may act on a mini-batch, in the order in which it comes by."""
COUNTERS = ("step", "lag")
"""Entries of every state that the engine counts; see :func:`begin`."""
_RESERVED = {*COUNTERS, "latest", "line"}
_PLAIN = (bool, int, float, str)
_PROBE = 64


class OptimizerView(Protocol):
    """What a strategy may ask of the optimizer: vectors (N,) in the order of the stage's flat weights."""

    @property
    def kind(self) -> str:
        """The name of its class, as ``SGD``: a strategy may follow the update of some and refuse the others."""

    def rate(self) -> Tensor:
        """The learning rates, negative where the optimizer maximizes: plain descent is ``W - rate * gradient``."""

    def setting(self, name: str) -> Tensor:
        """A numeric setting of the parameter groups, such as ``lr``, ``momentum`` or ``betas.0``, as it is."""

    def state(self, name: str) -> Tensor:
        """A buffer of the optimizer's state, as ``momentum_buffer``; zero before the first update, and where frozen."""


@dataclass(frozen=True)
class Strategy:
    """What a stage with a delay does about it: functions on an explicit state, each with a default.

    All weights of a stage travel as one flat vector (N,). What is remembered is a dictionary of tensors that is changed
    in place, so that a checkpoint can hold it and a CUDA graph can use it; beside what :meth:`init` makes it has the
    two counters of :func:`begin`. A subclass overrides the places where it acts, and names what its constructor takes
    in :attr:`constants`.

    Attributes:
        name: as in :data:`layerpipe2.strategies.STRATEGIES`, if it was made by name; else an empty text.
    """

    name: str = field(default="", init=False, repr=False, compare=False)

    def init(self, weights: Tensor, delay: int) -> State:
        """State of a stage with ``weights`` (N,) and ``delay`` > 0, its largest lag, before its first update."""
        return {}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """The weights (N,) that forward passes read until the next update; ``latest`` is ``W(t)``. Default: those."""
        return latest

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """The weights (N,) that the backward pass reads. Default: ``used``.

        ``used`` is what :meth:`forward` returned for this mini-batch, ``state["lag"]`` updates ago: to look at it costs
        the memory of all that were returned since (:attr:`needs_used`).
        """
        return used

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """What the optimizer gets (N,) for the gradient of the mini-batch, after clipping. Default: the gradient."""
        return gradient

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """The weights (N,) after update number ``state["step"]``, where the optimizer went to ``after``: the default.

        An average takes in the applied update ``before - after`` here.
        """
        return after

    @property
    def constants(self) -> tuple[str, ...]:
        """Entries of the state that never change: a checkpoint that differs in them is another strategy's."""
        return ()

    @property
    def needs_used(self) -> bool:
        """Whether :meth:`backward` or :meth:`gradient` looks at ``used``; a pipeline keeps it only then."""
        return True

    @property
    def changes_update(self) -> bool:
        """Whether :meth:`update` returns other weights than it is given; averages, which only look, don't."""
        return self.acts("update")

    @property
    def fixed_lag(self) -> bool:
        """Whether :meth:`backward` takes ``min(step, delay)`` for the lag, so that it can't be another one."""
        return False

    def acts(self, place: Place) -> bool:
        """Whether the strategy overrides a place; the engine leaves out what a default would do."""
        return getattr(type(self), place) is not getattr(Strategy, place)

    @property
    def kind(self) -> str:
        """What a checkpoint and the other processes must have as well: the class and its plain settings."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}
        plain = [f"{name}={value}" for name, value in own.items() if type(value) in _PLAIN]
        return type(self).__name__ + (f"({', '.join(plain)})" if plain else "")

    @property
    def exact(self) -> bool:
        """Whether the backward pass reads the weights of the forward pass by definition."""
        return not self.acts("backward")

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """Copies of the stage's weights that hardware must hold beside the latest ones and the optimizer's state.

        ``momentum_buffer`` says whether that state tells the newest update: SGD's momentum and Adam's moments do, plain
        SGD and Nesterov's form, whose update adds the gradient, do not. Default: what :attr:`needs_used` and
        :meth:`init` ask for.
        """
        if not delay:
            return 0.0
        made = self.init(torch.zeros(_PROBE), delay).values()
        own = sum(tensor.numel() // _PROBE for tensor in made if tensor.shape[-1:] == (_PROBE,))
        return float(own + (delay if self.needs_used else 0))

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float] | None:
        """``(b, x, y)`` of ``Ŵ = W(t) + x A + y u_0`` in the steady state, if the strategy is of this form.

        ``A`` is the average of the older updates with decay ``b``, ``u_0`` the newest one
        (:mod:`layerpipe2.strategies.moments`). The theory of the reconstruction's error starts from them.
        """
        return None


class FromLatest(Strategy):
    """A strategy that needs no stash: its backward pass reads what it makes of the latest weights and of its state.

    Its :meth:`update`, if it has one, only looks at the applied update. What it recalls may be ``W(t - d)``, or not.
    """

    needs_used = False
    changes_update = False


def begin(strategy: Strategy, weights: Tensor, delay: int, step: Tensor | None = None) -> State:
    """The state of a stage whose pipeline is empty: what the strategy remembers, and the engine's counters.

    Both are int64 of shape (1,): ``step``, the number of updates since the pipeline was last empty (``step``, where the
    caller counts it), and ``lag``, the number of updates between the forward and the backward pass of the mini-batch
    that comes back next, ``min(step, delay)`` where every mini-batch makes an update.
    """
    counter: Any = {"dtype": torch.int64, "device": weights.device}
    own = strategy.init(weights, delay)
    check_state(strategy, own, weights)
    return {"step": torch.zeros(1, **counter) if step is None else step, "lag": torch.zeros(1, **counter), **own}


def check_state(strategy: Strategy, own: State, weights: Tensor) -> None:
    """Refuse what ``init`` made of ``weights`` if no checkpoint could hold it, and contradictions.

    Raises:
        UserError: naming strategy and entry.
    """
    name = strategy.name or strategy.kind
    for key, value in own.items():
        if key in _RESERVED:
            raise UserError(f"strategy '{name}' calls an entry of its state '{key}', a name of the engine's; rename it")
        if not isinstance(value, Tensor):
            raise UserError(f"strategy '{name}' has a {type(value).__name__} in its state ('{key}'); make it a tensor")
        if value.untyped_storage().data_ptr() == weights.untyped_storage().data_ptr() and value.numel():
            raise UserError(f"strategy '{name}' keeps the weights themselves in its state ('{key}'); clone them")
    for key in strategy.constants:
        if key not in own:
            raise UserError(f"strategy '{name}' names the constant '{key}', which its state lacks; correct one of them")
    if strategy.exact and not strategy.needs_used:
        raise UserError(f"strategy '{name}' reads the weights of the forward pass, but needs_used is False; correct it")


def count(state: State, delay: int) -> None:
    """An update was made where every mini-batch makes one: both counters move on."""
    state["step"] += 1
    torch.clamp(state["step"], max=delay, out=state["lag"])
