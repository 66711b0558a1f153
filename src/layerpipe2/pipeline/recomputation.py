"""Activations of mini-batches in flight, computed again: less memory, one more forward pass (gradient checkpointing).

A stage with delay ``d`` keeps the activations of ``d + 1`` mini-batches. With recomputation, one in flight keeps only
what came into the stage; right before its backward pass it runs forward again, with the weights of its forward pass,
which an exact stash has, and with the random numbers and buffers of then: the same function of the same numbers, so
that training stays the same bit for bit. A reconstruction has other weights, hence other activations: that would be
another training.
"""

from zlib import crc32

from torch import Tensor

from layerpipe2.engine.saved_weights import as_bytes
from layerpipe2.engine.weights import HOSTS
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy


def check_recomputation(strategy: Strategy) -> None:
    """Refuse to recompute activations with weights that are not those of the forward pass.

    Raises:
        UserError: naming the strategy.
    """
    if not strategy.exact:
        raise UserError(
            "recompute_activations runs a forward pass again with the same weights, which strategy "
            f"'{strategy.name or strategy.kind}' doesn't keep (with others it would be another training); give "
            "strategy 'stash'"
        )


class KeptInput:
    """A mini-batch of which only the input is kept.

    On CPUs its two forward passes must give the same outputs, by their checksum. (On a GPU the host would wait for it.)

    Args:
        x: the input (B, ...), as it is before the first pass.
        stage: number of the stage, for messages.
    """

    def __init__(self, x: Tensor, stage: int) -> None:
        self.x, self._stage = x, stage
        self._version, self._sum = x._version, 0

    def note(self, y: Tensor) -> None:
        """The outputs (B, ...) of the first pass.

        Raises:
            UserError: naming the stage, if that has changed the input, which the second pass needs.
        """
        if self.x._version != self._version:
            raise self._refused("changes its input in place (a first layer with inplace=True?)")
        self._sum = _sum_of(y)

    def check(self, y: Tensor) -> None:
        """Compare with the outputs of the second one.

        Raises:
            UserError: naming the stage, if it did not compute the same.
        """
        if _sum_of(y) != self._sum:
            raise self._refused(
                "computed other outputs when its forward pass ran again (a state outside of its buffers, random "
                "numbers of its own, a callback that changes how it computes?)"
            )

    def _refused(self, what: str) -> UserError:
        return UserError(f"stage {self._stage} {what}; change that, or train without recompute_activations")


def _sum_of(y: Tensor) -> int:
    return crc32(as_bytes(y.detach().contiguous()).numpy().data) if y.device.type in HOSTS else 0
