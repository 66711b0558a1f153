"""Several strategies as one, each in its own places."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.strategies.base import COUNTERS, OptimizerView, Place, State, Strategy, check_state


def chain(*strategies: Strategy) -> Strategy:
    """One strategy that does what each of ``strategies`` does; gradient and update pass through them in their order.

    Defined where at most one acts on the forward pass, at most one on the backward pass, and averages, which take in
    the update that is applied, follow those that change it.

    >>> from layerpipe2.strategies import make_strategy
    >>> chain(make_strategy("stash"), make_strategy("latest")).acts("backward")
    True

    Raises:
        UserError: where it is not defined, naming both.
    """
    for strategy in strategies:
        if not isinstance(strategy, Strategy):
            raise UserError(f"chain got {strategy!r}; give strategies, as make_strategy('ema-span')")
    choices: tuple[Place, ...] = ("forward", "backward")
    for place in choices:
        acting = [strategy for strategy in strategies if strategy.acts(place)]
        if len(acting) > 1:
            raise _refusal(acting, f"both choose the weights of the {place} pass; give one of them")
    for one, other in combinations(strategies, 2):
        if one.acts("update") and not one.changes_update and other.changes_update:
            raise _refusal([one, other], "the first takes in the update that the second then changes; swap them")
    return Chain(links=strategies)


def _refusal(pair: Sequence[Strategy], why: str) -> UserError:
    names = " and ".join(strategy.name or type(strategy).__name__ for strategy in pair[:2])
    return UserError(f"{names} can't be chained so: {why}")


@dataclass(frozen=True)
class Chain(Strategy):
    """What :func:`chain` makes. Entry ``name`` of link ``i`` has the key ``i.name`` in the common state."""

    links: tuple[Strategy, ...] = field(kw_only=True)

    @property
    def kind(self) -> str:
        """The kinds of all links."""
        return " and ".join(link.kind for link in self.links)

    @property
    def changes_update(self) -> bool:
        """Whether one of the links does."""
        return any(link.changes_update for link in self.links)

    @property
    def fixed_lag(self) -> bool:
        """Whether one of the links has one."""
        return any(link.fixed_lag for link in self.links)

    def acts(self, place: Place) -> bool:
        """Say whether one of the links acts there."""
        return any(link.acts(place) for link in self.links)

    @property
    def needs_used(self) -> bool:
        """Whether the backward pass or one of the links looks at it."""
        acting = [link for link in self.links if link.acts("backward") or link.acts("gradient")]
        return self.exact or any(link.needs_used for link in acting)

    @property
    def constants(self) -> tuple[str, ...]:
        """Those of all links."""
        return tuple(f"{i}.{name}" for i, link in enumerate(self.links) for name in link.constants)

    def init(self, weights: Tensor, delay: int) -> State:
        """Those of all links."""
        made = [link.init(weights, delay) for link in self.links]
        for link, own in zip(self.links, made, strict=True):
            check_state(link, own, weights)
        return {f"{i}.{name}": value for i, state in enumerate(made) for name, value in state.items()}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """What the link that acts there returns."""
        return self._only("forward", state, latest, latest, optimizer)

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """What the link that acts there returns."""
        return self._only("backward", state, used, latest, used)

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """Pass it through one link after the other."""
        for i, link in enumerate(self.links):
            gradient = link.gradient(_own(state, i), gradient, latest, used)
        return gradient

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Pass it through one link after the other."""
        for i, link in enumerate(self.links):
            after = link.update(_own(state, i), before, after)
        return after

    def copies(self, delay: int, **known: Any) -> float:
        """Add up those of all links; what forward passes read is kept once, if it is needed."""
        kept = float(delay) if self.needs_used else 0.0
        own = (link.copies(delay, **known) - (delay if link.needs_used else 0) for link in self.links)
        return kept + sum(own)

    def _only(self, place: Place, state: State, default: Tensor, *arguments: Any) -> Tensor:
        for i, link in enumerate(self.links):
            if link.acts(place):
                found: Tensor = getattr(link, place)(_own(state, i), *arguments)
                return found
        return default


def _own(state: State, i: int) -> State:
    """The part of a link: the same tensors under its own names."""
    mine = {name.removeprefix(f"{i}."): value for name, value in state.items() if name.startswith(f"{i}.")}
    return cast(State, MappingProxyType({name: state[name] for name in COUNTERS} | mine))
