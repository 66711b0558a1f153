"""Parameters that are frozen from the start have no earlier values: what changes them is noticed."""

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import nn

from layerpipe2.engine.layout import check_frozen
from layerpipe2.engine.saved_weights import as_bytes, weights_changed


class FrozenParameters:
    """Those of one stage with a delay: they are to stay as they are while mini-batches are in the pipeline.

    Args:
        parameters: of the stage, those that no delay line holds.
        index: the stage's number, for messages.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], index: int) -> None:
        self._parameters, self._index = list(parameters), index
        self.note()

    def note(self) -> None:
        """Take them as they are now."""
        self._versions, self._sums = self._versions_now(), self._sums_now()

    def check(self) -> None:
        """Before each mini-batch.

        Raises:
            UserError: if one was unfrozen, or changed in a way that autograd counts.
        """
        check_frozen(self._parameters, self._index)
        if self._versions != self._versions_now():
            self.check_unchanged()

    def check_unchanged(self) -> None:
        """Compare their contents.

        Raises:
            UserError: if something has changed them, also through ``.data``.
        """
        if self._sums != self._sums_now():
            raise weights_changed(self._index)
        self._versions = self._versions_now()

    def _versions_now(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self._parameters]

    @torch.no_grad()
    def _sums_now(self) -> list[int]:
        return [crc32(as_bytes(p.detach().reshape(-1)).cpu().numpy().tobytes()) for p in self._parameters]
