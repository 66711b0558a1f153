"""Is everything finite that passes through a process? Asked of a GPU without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layerpipe2.errors import UserError


class FiniteCheck:
    """Raises at the first value that is not finite: at once on the CPU, at the end of the next step on a GPU."""

    def __init__(self) -> None:
        self._notes: list[tuple[Tensor, str]] = []
        self._previous: tuple[Any, list[tuple[Tensor, str]]] | None = None

    def note(self, value: Tensor, what: str) -> None:
        """Look at ``value``.

        Raises:
            UserError: on the CPU, if it is not finite; ``what`` names it.
        """
        finite = value.sum().isfinite()
        if value.is_cuda:
            self._notes.append((finite.to("cpu", non_blocking=True), what))
        else:
            _refuse([(finite, what)])

    def end_step(self) -> None:
        """Of a GPU: the answers to what was noted in the step before.

        Raises:
            UserError: naming the first that is not finite.
        """
        if not self._notes:
            return
        asked, self._previous = self._previous, (torch.cuda.current_stream().record_event(), self._notes)
        self._notes = []
        _answer(asked)

    def finish(self) -> None:
        """Of a GPU: the answers to everything that was noted.

        Raises:
            UserError: naming the first that is not finite.
        """
        self.end_step()
        asked, self._previous = self._previous, None
        _answer(asked)


def _answer(asked: tuple[Any, list[tuple[Tensor, str]]] | None) -> None:
    if asked is not None:
        asked[0].synchronize()
        _refuse(asked[1])


def _refuse(notes: list[tuple[Tensor, str]]) -> None:
    for finite, what in notes:
        if not bool(finite):
            raise UserError(
                f"{what} is not finite; lower the learning rate, or go on all the same with check_finite=False"
            )
