"""Is everything finite that passes through a process? Asked of a GPU without waiting for it."""

from typing import Any

import torch
from torch import Tensor

from layerpipe2.errors import UserError

Notes = list[tuple[Tensor, str]]


class FiniteCheck:
    """Raises at the first value that is not finite: at once on the CPU, at the end of the next step on a GPU."""

    def __init__(self) -> None:
        self._notes: Notes = []
        self._previous: tuple[Any, Notes] = None, []

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
        """Look at the values of the step before, on a GPU.

        Raises:
            UserError: naming the first that is not finite.
        """
        if self._notes:
            (event, notes), self._previous = self._previous, (torch.cuda.current_stream().record_event(), self._notes)
            self._notes = []
            _refuse(notes, event)

    def finish(self) -> None:
        """Look at all values that are left, on a GPU; raises as :meth:`end_step`."""
        self.end_step()
        (event, notes), self._previous = self._previous, (None, [])
        _refuse(notes, event)


def _refuse(notes: Notes, event: Any = None) -> None:
    if event is not None:
        event.synchronize()
    for finite, what in notes:
        if not finite:
            remedy = "lower the learning rate, or go on all the same with check_finite=False"
            raise UserError(f"{what} is not finite; {remedy}")
