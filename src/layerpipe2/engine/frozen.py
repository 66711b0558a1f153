"""Parameters that are frozen from the start have no earlier values: what changes them is noticed."""

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import nn

from layerpipe2.engine.layout import check_frozen
from layerpipe2.engine.saved_weights import as_bytes
from layerpipe2.errors import UserError


class FrozenParameters:
    """Those of one stage with a delay: they are to stay as they are while mini-batches are in the pipeline.

    Args:
        parameters: of the stage, those that no delay line holds; contents are compared of plain ones (strided).
        index: the stage's number, for messages.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], index: int) -> None:
        self._parameters, self._index = list(parameters), index
        self._plain = [p for p in parameters if type(p) is nn.Parameter and p.layout is torch.strided and not p.is_meta]
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
            raise UserError(
                f"stage {self._index}: a frozen parameter was changed while mini-batches are in the pipeline (by a "
                "callback, or by the stage's own forward pass); make it a buffer, announce with unfreezes=True that it "
                "may train, or change it between two epochs with drain=True"
            )
        self._versions = self._versions_now()

    def _versions_now(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self._plain]

    @torch.no_grad()
    def _sums_now(self) -> list[int]:
        return [crc32(as_bytes(p.detach().cpu().contiguous().reshape(-1)).numpy().data) for p in self._plain]
