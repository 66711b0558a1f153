"""Has something else than the optimizer changed the weights of a stage between two updates?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layerpipe2.engine.frozen import FrozenParameters
from layerpipe2.engine.saved_weights import as_bytes, weights_changed


class WeightWatch:
    """Of a stage whose parameters are views of the flat vector ``latest``; ``None``: there is nothing to watch.

    What autograd counts as a change is seen at every update. A change through ``.data`` is seen where a copy was kept:
    from :meth:`note` to the next update, of weights that take part in an audit.

    Args:
        parameters: that are delayed.
        latest: their memory (N,).
        index: number of the stage, for messages.
        frozen: those that aren't, of a stage with a delay.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], latest: Tensor | None, index: int, frozen: FrozenParameters
    ) -> None:
        self._parameters, self._latest, self._index, self._frozen = parameters, latest, index, frozen
        self.note()

    def note(self) -> None:
        """Keep a copy of the weights until the next update."""
        self._noted = self._versions()
        self._kept = None if self._latest is None else self._latest.clone()

    def restart(self) -> None:
        """The pipeline is empty, or was just restored: take everything as it is now."""
        self.note()
        self._frozen.note()

    def updated(self) -> None:
        """The optimizer has just changed them."""
        self._noted, self._kept = self._versions(), None

    def check(self) -> None:
        """Look at the weights before the next update, and compare them with the copy, if there is one.

        Raises:
            UserError: if they were changed, or may have been.
        """
        self._frozen.check_unchanged()
        if self._latest is None:
            return
        if self._kept is None:
            changed = self._noted != self._versions()
        else:
            changed = not torch.equal(as_bytes(self._kept), as_bytes(self._latest))
        if changed:
            raise weights_changed(self._index)
        self.check_places()
        self._noted = self._versions()

    def check_quickly(self) -> None:
        """As :meth:`check`, but only if autograd has counted a change."""
        if self._noted != self._versions():
            self.check()

    def check_places(self) -> None:
        """See whether the parameters are still views of the flat vector.

        Raises:
            UserError: if one has got other memory.
        """
        if [place for place, _ in self._noted] != [place for place, _ in self._versions()]:
            raise weights_changed(self._index)

    def _versions(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self._parameters]
