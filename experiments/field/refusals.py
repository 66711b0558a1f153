"""What a row says about an optimizer that it isn't defined for."""

import torch
from torch import Tensor

from layerpipe2 import UserError
from layerpipe2.strategies import OptimizerView


def momentum_of(optimizer: OptimizerView, row: str, *, plain: bool = False) -> Tensor:
    """SGD's momentum ``m`` (N,); where ``plain``, of an update that is ``lr v`` with ``v = m v + g``.

    Raises:
        UserError: if it is another optimizer, has no momentum, or where ``plain`` another form of it.
    """
    if optimizer.kind != "SGD":
        raise UserError(f"{row} is made from SGD's momentum buffer, and the optimizer is {optimizer.kind}; take SGD")
    momentum = optimizer.setting("momentum")
    none = (momentum == 0) & (optimizer.setting("lr") != 0)
    refuse_where(none, f"{row} is made from SGD's momentum buffer, and momentum is 0; give SGD a momentum")
    for form in ("nesterov", "dampening") if plain else ():
        refuse_where(optimizer.setting(form) != 0, f"{row} is defined for plain momentum; leave out {form}")
    return momentum


def refuse_where(condition: Tensor, message: str) -> None:
    """Refuse if the ``condition`` (N,) holds anywhere.

    Raises:
        UserError: with the message. Not while a CUDA graph is captured, of which the same was asked before.
    """
    captured = condition.is_cuda and torch.cuda.is_current_stream_capturing()
    if not captured and bool(condition.any()):
        raise UserError(message)
