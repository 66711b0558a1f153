"""What passes through a pipeline is a tensor: mini-batches, what stages hand on, and the loss, checked."""

from typing import Any

from torch import Tensor

from layerpipe2.engine.packing import pack
from layerpipe2.errors import UserError


def pair_of_tensors(batch: Any) -> tuple[Tensor, Tensor]:
    """A mini-batch's inputs, several of them in one tensor, and targets.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return pack(batch[0]), batch[1]
    parts = ""
    if isinstance(batch, tuple | list):
        parts = f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    raise UserError(
        f"mini-batch is a {type(batch).__name__}{parts}; a pipeline takes a pair (inputs, targets) of two tensors: "
        "name its parts (inputs=..., target=...), or give the DataLoader a collate_fn that returns a pair"
    )


def handed_on(y: Any, stage: int, *, last: bool) -> Tensor:
    """What a stage hands on: its outputs, several tensors in one.

    Raises:
        UserError: if they are something else, or on the last stage, whose outputs the loss gets, no single tensor.
    """
    if last and not isinstance(y, Tensor):
        raise UserError(
            f"stage {stage}, the last one, returns a {type(y).__name__}; the loss takes a tensor: return one"
        )
    return pack(y, stage)


def one_number(value: Any) -> Tensor:
    """The loss of a mini-batch.

    Raises:
        UserError: if it is no scalar tensor.
    """
    if not isinstance(value, Tensor) or value.ndim:
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"loss returns {found}; it must return one number, the mean over the mini-batch")
    return value
