"""Several mini-batches per update: which pipelines can have them.

Delays count mini-batches, so ``a`` of them per update divide the weight versions that a late backward pass misses:
stage ``k`` reads ``W_k(max(0, t - d_k) // a)`` in the forward pass of mini-batch ``t`` and makes update ``t // a`` with
the mean gradient of ``a`` mini-batches. With the latest weights in the backward pass this is PACI (arXiv 2606.07881).
"""

from typing import Any

from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError, integer
from layerpipe2.strategies import Strategy

_MOST = 1000


def check_accumulation(accumulate: Any, strategy: Strategy, delays: Delays) -> None:
    """Refuse a number of mini-batches per update with which the strategy is not defined.

    Raises:
        UserError: saying why.
    """
    each = integer(accumulate, "accumulate", 1, _MOST)
    name = strategy.name or strategy.kind
    if each > 1 and strategy.acts("gradient"):
        raise UserError(
            f"strategy '{name}' looks at the gradient of each mini-batch, but accumulate={each} averages several "
            "before the optimizer gets them; give accumulate=1 or another strategy"
        )
    odd = [d for d in delays.per_stage if d % each]
    if strategy.fixed_lag and odd:
        raise UserError(
            f"strategy '{name}' is made for one lag, but with accumulate={each} a stage with delay {odd[0]} has two; "
            "give an accumulate that divides all delays, or another strategy"
        )


def add_earlier(parameter: nn.Parameter, earlier: Tensor | None) -> None:
    """Add the gradients of earlier mini-batches, in place, to that of one, which is whole by then as in one graph."""
    mine = parameter.grad
    if earlier is not None:
        parameter.grad = earlier if mine is None else earlier.add_(mine)


def check_epoch(accumulate: int, batches: float) -> None:
    """Refuse epochs whose last update would lack mini-batches.

    Raises:
        UserError: if ``accumulate`` doesn't divide their number of mini-batches.
    """
    if accumulate > 1 and batches % accumulate:  # NaN for endless epochs
        raise UserError(
            f"an epoch has {batches} mini-batches, so that accumulate={accumulate} would leave an update without some "
            "of its own; give the Trainer a limit_train_batches that it divides"
        )


def check_whole(waiting: int, accumulate: int) -> None:
    """Refuse to end an epoch in the middle of an update.

    Raises:
        UserError: saying so.
    """
    if waiting:
        raise UserError(
            f"training stopped {waiting} mini-batches into an update of accumulate={accumulate}; let it stop (data, "
            "callbacks) where accumulate divides the number of mini-batches"
        )
