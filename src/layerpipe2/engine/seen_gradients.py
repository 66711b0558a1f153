"""What a strategy has seen of an update must be what the optimizer's step begins with: gradients and learning rates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.optimizer_view import rates_of
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError


class SeenGradients:
    """Remembers the gradients of one update's stages as the strategy has seen them.

    A change that autograd counts is found always, one through ``.data`` where copies are kept.

    Args:
        delayed: the stages' weights.
        copies: keep copies of the gradients.
    """

    def __init__(self, delayed: Sequence[DelayedWeights], *, copies: bool) -> None:
        held = [weights for weights in delayed if weights.compensates]
        self._parameters = [p for weights in held for p in weights.layout.parameters]
        self._gradients = [p.grad for p in self._parameters]  # alive, so that no other gets their address
        self._known = self._versions()
        self._rates = next((weights.rates for weights in held), None)
        there = [g for g in self._gradients if g is not None and not g.is_sparse]
        on_host = all(weights.table is None for weights in held)
        self._copies = [(g, g.detach().clone()) for g in there] if copies and on_host else []
        strategy = held[0].strategy if held else None
        self._name = strategy and (strategy.name or strategy.kind)

    @contextmanager
    def checking(self, optimizer: Optimizer | Any) -> Iterator[None]:
        """Within: the optimizer's step, hooks included.

        Raises:
            UserError: if something has changed the gradients, or rates that the strategy has noted, since it saw them.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        if not (self._copies or self._rates is not None) or not isinstance(inner, Optimizer):
            yield
        else:
            handle = inner.register_step_pre_hook(self._look)  # the last one
            try:
                yield
            finally:
                handle.remove()
        if self._known != self._versions():
            raise self._changed()

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Check as soon as the step begins: what the optimizer then does to gradients is its own matter.

        It begins with its closure, where Lightning calls ``on_before_optimizer_step``.
        """
        given = dict(zip(("optimizer", "closure"), args, strict=False)) | kwargs
        closure = given.get("closure")
        if not callable(closure):
            return self._check_begin(optimizer)

        def looking() -> Any:
            found = closure()
            self._check_begin(optimizer)
            return found

        return (args[0], *args[2:]), kwargs | {"closure": looking}

    def _check_begin(self, optimizer: Optimizer) -> None:
        rates, self._rates = self._rates, None
        copies, self._copies = self._copies, []
        if rates is not None and rates != rates_of(optimizer):
            raise UserError(
                "a learning rate was changed between a mini-batch's forward pass and its update (by a callback's "
                f"on_before_optimizer_step, by a hook?), after strategy '{self._name}' has noted it; change it in a "
                "scheduler or in on_train_batch_start"
            )
        if not all(torch.allclose(g, copy, rtol=0, atol=0, equal_nan=True) for g, copy in copies):
            raise self._changed()

    def _versions(self) -> list[tuple[int, int] | None]:
        found: list[Tensor | None] = [p.grad for p in self._parameters]
        return [None if g is None else (id(g), g._version) for g in found]

    def _changed(self) -> UserError:
        return UserError(
            "gradients were changed within the optimizer's step (a callback's on_before_optimizer_step?), after "
            f"strategy '{self._name}' has seen them; change gradients in on_after_backward"
        )
