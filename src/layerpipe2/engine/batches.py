"""Mini-batches as people have them: which part is the input, which the target, and what the loss makes of them."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2.engine.packing import pack, unpack
from layerpipe2.engine.values import pair_of_tensors
from layerpipe2.errors import UserError, shown


class BatchFormat(NamedTuple):
    """Which parts of a mini-batch a pipeline takes.

    Attributes:
        inputs: name or position of the inputs, or several, which the first stage gets as a tuple; ``None``: a
            mini-batch is a pair (inputs, targets).
        target: likewise that of the targets, or several, which the loss gets as a tuple.
        ignore_index: class of targets that don't count, e.g. -100.
        shift_target: move targets one position to the left along the sequence, so that a position's target is the next
            token; the last position doesn't count.
    """

    inputs: str | int | tuple[str | int, ...] | None = None
    target: str | int | tuple[str | int, ...] | None = None
    ignore_index: int | None = None
    shift_target: bool = False

    def pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a mini-batch.

        Raises:
            UserError: if it lacks one of them, or they are no tensors.
        """
        if self.inputs is None or self.target is None:
            return pair_of_tensors(batch)
        inputs, targets = self.inputs_of(batch), _parts(batch, self.target, "target")
        return inputs, self._shifted(targets) if self.shift_target else targets

    def inputs_of(self, batch: Any) -> Tensor:
        """The inputs of a mini-batch, whether targets come with them or not.

        Raises:
            UserError: as :meth:`pair`.
        """
        if isinstance(batch, Tensor):
            return batch
        if self.inputs is None:
            return pair_of_tensors(batch)[0]
        return _parts(batch, self.inputs, "inputs")

    def _shifted(self, targets: Tensor) -> Tensor:
        if targets.ndim != 2 or targets.is_floating_point():
            raise UserError(
                f"shift_target needs token numbers (B, T) as targets; these are {list(targets.shape)} of "
                f"{targets.dtype}: leave shift_target out"
            )
        assert self.ignore_index is not None, "settings are checked"
        return F.pad(targets[:, 1:], (0, 1), value=self.ignore_index)


def _parts(batch: Any, keys: str | int | tuple[str | int, ...], argument: str) -> Tensor:
    if isinstance(keys, tuple):
        return pack(tuple(_part(batch, key, argument) for key in keys))
    return _part(batch, keys, argument)


def _part(batch: Any, key: str | int, argument: str) -> Tensor:
    keys = list(batch) if isinstance(batch, Mapping) else []
    try:
        part = batch[key]
    except (KeyError, IndexError, TypeError):
        holds = f"has {', '.join(map(str, keys)) or 'nothing'}" if isinstance(batch, Mapping) else _described(batch)
        raise UserError(f"mini-batch {holds}, but {argument}={shown(key)}; name one of its parts") from None
    if not isinstance(part, Tensor):
        raise UserError(
            f"part {shown(key)} of a mini-batch is a {type(part).__name__}; a pipeline takes tensors: give the "
            "DataLoader a collate_fn that makes one"
        )
    return part


def _described(batch: Any) -> str:
    count = f" of {len(batch)} parts" if isinstance(batch, tuple | list) else ""
    return f"is a {type(batch).__name__}{count}"


def class_dimension(outputs: Tensor, targets: Tensor) -> int | None:
    """The dimension of ``outputs`` that runs over classes; ``None`` where targets aren't classes.

    1, as torch has it: outputs (B, C, ...), targets (B, ...). -1 where only the language models' order fits: outputs
    (B, T, V), targets (B, T).
    """
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1:
        return None
    torch_fits = outputs.shape[:1] + outputs.shape[2:] == targets.shape
    return -1 if not torch_fits and outputs.shape[:-1] == targets.shape else 1


def adapted(loss: Any, ignore_index: int | None, *, several: bool = False) -> Any:
    """The loss that a training computes: torch's losses of classes take outputs (B, T, V) and ``ignore_index`` as well.

    Others are taken as they are. With ``several`` targets, they get a tuple of them.
    """
    if several:
        return partial(_of_several, loss)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return partial(_of_classes, loss, {})
    if loss is not F.cross_entropy and loss is not F.nll_loss:
        return loss
    return partial(_of_classes, loss, {} if ignore_index is None else {"ignore_index": ignore_index})


def _of_several(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    found: Tensor = loss(outputs, unpack(targets))
    return found


def _of_classes(loss: Any, options: Mapping[str, Any], outputs: Tensor, targets: Tensor) -> Tensor:
    if class_dimension(outputs, targets) == -1:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    found: Tensor = loss(outputs, targets, **options)
    return found
