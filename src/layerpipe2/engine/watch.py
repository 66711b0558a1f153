"""Has something else than the optimizer changed the weights of stages while mini-batches are in the pipeline?"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor, nn

from layerpipe2.engine.layout import check_frozen, trainable
from layerpipe2.engine.saved_weights import as_bytes, network_changed, weights_changed
from layerpipe2.errors import UserError

if TYPE_CHECKING:
    from layerpipe2.engine.stage import Stage

_version = attrgetter("_version")


class WeightWatch:
    """Looks at the parameters of stages: those that the optimizer moves, and those that are frozen.

    What autograd counts as a change is seen at every step, for all stages in one comparison. A change through ``.data``
    is seen where copies were kept: from :meth:`note` to the next mini-batch. Frozen parameters have checksums instead.

    Args:
        stages: the stages that share an optimizer.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self._weights = [stage.weights for stage in stages if stage.weights is not None]
        self._moving = [p for weights in self._weights for p in weights.layout.parameters]
        self._frozen = [p for stage in stages for p in stage.frozen]
        fixed = [(stage.index, p) for stage in stages if stage.delay for p in stage.frozen]
        plain = [(k, p) for k, p in fixed if type(p) is nn.Parameter and p.layout is torch.strided and not p.is_meta]
        self._plain, self._plain_at = [p for _, p in plain], [k for k, _ in plain]
        places = [(k.index, m._parameters, name) for k in stages for m in k.module.modules() for name in m._parameters]
        self._places = [(holder, name) for _, holder, name in places]
        self._placed, self._placed_at = [holder[name] for holder, name in self._places], [k for k, _, _ in places]
        self._noted = False
        self.restart()

    def restart(self) -> None:
        """Take everything as it is now: the pipeline is empty, or was just restored."""
        self._fixed_seen, self._sums = _states(self._plain), _sums(self._plain)
        self.updated()
        self.note()

    def begin_step(self) -> None:
        """Do :meth:`check_quickly`; from here on the copies aren't needed: autograd counts what the passes change.

        Raises:
            UserError: as there, or if a layer has got another parameter.
        """
        found = [holder.get(name) for holder, name in self._places]
        if not all(map(is_, found, self._placed)):
            changed = next(k for k, p, q in zip(self._placed_at, found, self._placed, strict=True) if p is not q)
            raise network_changed(f"stage {changed}")
        self.check_quickly()
        if self._noted:
            self.updated()

    def note(self) -> None:
        """Keep copies of the weights until the next mini-batch, if there are none; :meth:`check` compares with them."""
        if not self._noted and self._weights:
            self.check_quickly()
            for weights in self._weights:
                weights.kept = weights.latest.clone()
            self._noted = True

    def updated(self) -> None:
        """The optimizer has just changed the weights: take them as they are now."""
        self._seen = _states(self._moving)
        if self._noted:
            for weights in self._weights:
                weights.kept = None
            self._noted = False

    def check_quickly(self) -> None:
        """Do :meth:`check` before each mini-batch and update, but only if autograd has counted a change.

        Raises:
            UserError: as there, or if a parameter was unfrozen whose earlier values are not known.
        """
        if any(map(trainable, self._frozen)):
            for stage in self._stages:
                check_frozen(stage.frozen, stage.index)
        if self._seen != _states(self._moving) or self._fixed_seen != _states(self._plain):
            self.check()

    def check(self) -> None:
        """Compare the weights with the copies, if there are any, and frozen parameters with their checksums.

        Raises:
            UserError: if they were changed, or may have been.
        """
        sums = _sums(self._plain)
        if self._sums != sums:
            changed = next(k for k, old, new in zip(self._plain_at, self._sums, sums, strict=True) if old != new)
            raise UserError(
                f"stage {changed}: a frozen parameter was changed while mini-batches are in the pipeline (by a "
                "callback, or by the stage's own forward pass); make it a buffer, announce with unfreezes=True that it "
                "may train, or change it between two epochs with drain=True"
            )
        self._fixed_seen = _states(self._plain)
        if not self._noted:
            now = _states(self._moving)
            changed_at = (w.index for w in self._weights for _ in w.layout.parameters)
            found = zip(changed_at, self._seen, now, strict=True)
            for index in (k for k, seen, state in found if seen != state):
                raise weights_changed(index)
            return
        for weights in self._weights:
            weights.attach()  # a parameter may have got other memory, with the same numbers
            assert weights.kept is not None, "there are copies of all"
            if not torch.equal(as_bytes(weights.kept), as_bytes(weights.latest)):
                raise weights_changed(weights.index)
        self._seen = _states(self._moving)


def _states(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
    return list(zip(map(Tensor.data_ptr, parameters), map(_version, parameters), strict=True))


@torch.no_grad()
def _sums(parameters: Sequence[Tensor]) -> list[int]:
    return [crc32(as_bytes(p.detach().cpu().contiguous().reshape(-1)).numpy().data) for p in parameters]
