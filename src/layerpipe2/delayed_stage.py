"""One stage with delayed weights: its delay line, its compute weights and the state of its weight history."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.errors import UserError
from layerpipe2.history import WeightHistory
from layerpipe2.layout import Layout, Slot, shadow
from layerpipe2.recall import Region


class DelayedStage:
    """Flat storage of stage ``k``, all of it updated in place.

    Attributes:
        latest: ``W(t)``, shape (N,), in the parameters' own type.
        line: delay line, shape (d, N). Row ``t mod d`` holds ``W(t - d)`` until update ``t`` writes ``W(t)`` there;
            all rows start as ``W(0)``, which is what the forward pass reads while the pipeline fills.
        regions: compute buffers; one, or two in low precision (BatchNorm's weights keep their type).
        exchanged: the regions whose saved views the backward pass must exchange; empty for exact methods.
        shadow: the module that computes with the regions' weights.
    """

    def __init__(
        self,
        stage: nn.Module,
        index: int,
        delay: int,
        history: WeightHistory,
        compute_dtype: torch.dtype | None,
    ) -> None:
        self.index, self.delay, self.history = index, delay, history
        self.layout = Layout.of(stage, index)
        self.latest = self.layout.parameters[0].new_zeros(self.layout.size).detach()
        self.line = self.latest.new_zeros(delay, self.layout.size)
        self.state = history.init(self.latest, delay) if delay else {}
        self._updated = torch.zeros_like(self.latest)
        self._bounds = self._regions_of(compute_dtype)
        self.regions = [Region(index, self.latest.new_zeros(b - a, dtype=t), self.latest) for a, b, t in self._bounds]
        self.exchanged = [] if history.exact or not delay else self.regions
        self.leaves = {slot.parameter: self._leaf(slot) for slot in self.layout.slots}
        self.shadow = shadow(stage, self.leaves)
        self.module_pairs = list(zip(stage.modules(), self.shadow.modules(), strict=True))
        self.has_matrices = any(p.ndim >= 2 for p in self.leaves)
        self.refill()

    def load(self, step: Tensor) -> None:
        """Before batch ``t``: fill the compute buffers with ``W(t - d)`` and recall the backward pass's weights."""
        with torch.no_grad():
            delayed = self.delayed(step)
            for (start, stop, _), region in zip(self._bounds, self.regions, strict=True):
                region.compute.copy_(delayed[start:stop])
            if not self.exchanged:
                return
            recalled = self.history.recall(self.state, self.latest, delayed, step)
            for (start, stop, dtype), region in zip(self._bounds, self.regions, strict=True):
                region.recalled = recalled[start:stop].to(dtype)

    def delayed(self, step: Tensor) -> Tensor:
        """``W(max(0, t - d))``, shape (N,), before update ``t``."""
        if not self.delay:
            return self.latest
        return self.line.index_select(0, step.remainder(self.delay))[0]

    def collect_gradients(self) -> None:
        """Hand the gradients of the compute weights to the parameters that the optimizer updates."""
        for parameter, leaf in self.leaves.items():
            parameter.grad = None if leaf.grad is None else leaf.grad.to(parameter.dtype)
            leaf.grad = None

    def scaled_gradients(self, rates: dict[nn.Parameter, float | Tensor]) -> Tensor:
        """``lr * gradient`` of the stage, flat (N,): what the raw form of the averages takes for the update."""
        flat = torch.zeros_like(self.latest)
        for slot in self.layout.slots:
            if slot.parameter.grad is not None:
                slot.view(flat).copy_(slot.parameter.grad * rates[slot.parameter])
        return flat

    def advance(self, step: Tensor, raw: Tensor | None) -> None:
        """After update ``t``: record it in the history, put ``W(t)`` into the delay line, take in ``W(t + 1)``."""
        with torch.no_grad():
            self.layout.gather(self.layout.parameters, self._updated)
            if self.delay:
                if self.history.consumes != "nothing":
                    self.history.record(self.state, self.latest - self._updated if raw is None else raw, step)
                self.line.index_copy_(0, step.remainder(self.delay), self.latest[None])
            self.latest.copy_(self._updated)

    def refill(self) -> None:
        """Empty the pipeline: the latest weights stand everywhere, the history starts anew."""
        with torch.no_grad():
            self.layout.gather(self.layout.parameters, self.latest)
            self.line.copy_(self.latest.expand_as(self.line))
            for name, value in (self.history.init(self.latest, self.delay) if self.delay else {}).items():
                self.state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Delay line, latest weights and history state, copied."""
        history = {name: value.clone() for name, value in self.state.items()}
        return {"latest": self.latest.clone(), "line": self.line.clone(), "history": history}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UserError: if it was saved with another weight history or another network.
        """
        mine = {"latest": self.latest, "line": self.line, **self.state}
        theirs = {"latest": saved["latest"], "line": saved["line"], **saved["history"]}
        fits = {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
        if not fits or not all(
            torch.equal(mine[n], theirs[n].to(mine[n])) for n in self.history.constants if n in mine
        ):
            raise UserError(
                f"checkpoint does not fit stage {self.index} (it holds {_shapes(theirs)}; this pipeline needs "
                f"{_shapes(mine)}, or its decay is another); resume with the same network and weight history"
            )
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])

    def check_buffers_shared(self) -> None:
        """Refuse layers that replace a buffer in the forward pass instead of changing it: the copies would part.

        Raises:
            UserError: naming the buffer.
        """
        for original, copied in self.module_pairs:
            for name, buffer in original.named_buffers(recurse=False):
                if getattr(copied, name) is not buffer:
                    raise UserError(
                        f"stage {self.index}: {type(original).__name__} assigned a new tensor to its buffer '{name}'; "
                        "change it in place (copy_, mul_, ...)"
                    )

    def _fits(self, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
        if {name: t.shape for name, t in mine.items()} != {name: t.shape for name, t in theirs.items()}:
            return False
        constants = [name for name in self.history.constants if name in mine]
        return all(torch.equal(mine[name], theirs[name].to(mine[name])) for name in constants)

    def _regions_of(self, compute_dtype: torch.dtype | None) -> list[tuple[int, int, torch.dtype]]:
        own, kept, size = self.latest.dtype, self.layout.kept, self.layout.size
        if compute_dtype is None:
            return [(0, size, own)]
        return [bounds for bounds in ((0, kept, own), (kept, size, compute_dtype)) if bounds[0] < bounds[1]]

    def _leaf(self, slot: Slot) -> nn.Parameter:
        for (start, stop, _), region in zip(self._bounds, self.regions, strict=True):
            if start <= slot.offset < stop:
                return nn.Parameter(slot.view(region.compute, base=start))
        raise AssertionError("unreachable: the regions cover the layout")


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
