"""Has something else than the optimizer changed the weights of a stage while mini-batches are in the pipeline?"""

from collections.abc import Sequence
from operator import attrgetter
from zlib import crc32

import torch
from torch import Tensor, nn

from layerpipe2.engine.layout import check_frozen
from layerpipe2.engine.saved_weights import as_bytes, weights_changed
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError

_version = attrgetter("_version")


class WeightWatch:
    """Of one stage: the parameters that its optimizer moves, and those that are frozen and have no earlier values.

    What autograd counts as a change is seen at every step. A change through ``.data`` is seen where a copy was kept:
    from :meth:`note` to the next mini-batch. Frozen ones have checksums instead.

    Args:
        weights: those that are delayed, if there are any.
        fixed: the other parameters of a stage with a delay; contents are compared of plain ones (strided).
        index: number of the stage, for messages.

    Attributes:
        kept: the copy (N,), if there is one.
    """

    def __init__(self, weights: DelayedWeights | None, fixed: Sequence[nn.Parameter], index: int) -> None:
        self._weights, self._fixed, self._index = weights, list(fixed), index
        self._moving = weights.layout.parameters if weights is not None else []
        self._plain = [p for p in fixed if type(p) is nn.Parameter and p.layout is torch.strided and not p.is_meta]
        self.kept: Tensor | None = None
        self.restart()

    def restart(self) -> None:
        """The pipeline is empty, or was just restored: take everything as it is now."""
        self._fixed_seen, self._sums = _states(self._plain), _sums(self._plain)
        self.updated()
        self.note()

    def begin_step(self) -> None:
        """As :meth:`check_quickly`. From here on the copy isn't needed: autograd counts what the passes change.

        Raises:
            UserError: as there.
        """
        self.check_quickly()
        if self.kept is not None:
            self.updated()

    def note(self) -> None:
        """Keep a copy of the weights until the next mini-batch, if there is none; :meth:`check` compares with it."""
        if self.kept is None and self._weights is not None:
            self.check_quickly()
            self.kept = self._weights.latest.clone()

    def updated(self) -> None:
        """The optimizer has just changed them."""
        self._seen, self.kept = _states(self._moving), None

    def check_quickly(self) -> None:
        """Before each mini-batch and update: as :meth:`check`, but only if autograd has counted a change.

        Raises:
            UserError: as there, or if a parameter was unfrozen whose earlier values are not known.
        """
        if self._fixed:
            check_frozen(self._fixed, self._index)
        if self._seen != _states(self._moving) or self._fixed_seen != _states(self._plain):
            self.check()

    def check(self) -> None:
        """Compare the weights with the copy, if there is one, and frozen parameters with their checksums.

        Raises:
            UserError: if they were changed, or may have been.
        """
        if self._sums != _sums(self._plain):
            raise UserError(
                f"stage {self._index}: a frozen parameter was changed while mini-batches are in the pipeline (by a "
                "callback, or by the stage's own forward pass); make it a buffer, announce with unfreezes=True that it "
                "may train, or change it between two epochs with drain=True"
            )
        self._fixed_seen = _states(self._plain)
        if self._weights is None:
            return
        if self.kept is None:
            if self._seen != _states(self._moving):
                raise weights_changed(self._index)
            return
        self._weights.attach()  # a parameter may have got other memory, with the same numbers
        if not torch.equal(as_bytes(self.kept), as_bytes(self._weights.latest)):
            raise weights_changed(self._index)
        self._seen = _states(self._moving)


def _states(parameters: Sequence[nn.Parameter]) -> list[int]:
    return [*map(Tensor.data_ptr, parameters), *map(_version, parameters)]


@torch.no_grad()
def _sums(parameters: Sequence[Tensor]) -> list[int]:
    return [crc32(as_bytes(p.detach().cpu().contiguous().reshape(-1)).numpy().data) for p in parameters]
