"""One stage of the simulator: the user's module runs forward with weights of earlier updates.

**Passes over the weights** (N numbers read or written once), beside those of any training: forward pass, backward
pass, optimizer. A delay needs a copy of the weights per update, 2 passes; the forward pass can compute with the row of
the delay line itself, and so can the backward pass of a stash. An average ``E`` needs 5 more: recall and record in one
sweep read ``W(t)``, ``W(t + 1)`` and ``E`` and write ``E`` and the recalled weights.

On the CPU that is what the step makes, but for the one sweep. The copy of ``W(t + 1)`` goes into the row of
``W(t - d)``, which update ``t`` has made free, and row and latest weights change roles: 2 passes for a stash and for
the latest weights. Recall is 3 more (reads ``W`` and ``E``, writes), record 6 (reads two ``W``, writes and reads ``u``,
reads and writes ``E``); what they write beside ``E`` is memory that the next stage takes again. Blocks of 256 KiB, so
that ``u`` never leaves the second-level cache, won nothing: memory feeds few and long streams best. The copy is also
what weights are compared with, when something else than the optimizer may have changed them.

Where addresses must stay (CUDA graphs) there are three more copies; low precision needs one, the cast.
"""

from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.audited_forward import has_recurrent_layer
from layerpipe2.engine.layout import Slot, batchnorm_parameters
from layerpipe2.engine.saved_weights import (
    ParameterSwap,
    Region,
    as_bytes,
    changed_in_forward,
    foreign_weights,
    network_changed,
    storage_of,
    weights_changed,
)
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy


class DelayedStage(DelayedWeights):
    """Stage ``k`` with its compute weights, which stand in the parameters' places while it runs forward.

    Attributes:
        regions: compute buffers; one, or two in low precision (BatchNorm's weights keep their type).
        exchanged: the regions whose saved views the backward pass must exchange; empty for exact methods.
        leaves: parameter -> its compute weight, a view of a region; what the forward pass uses instead.
        without_cudnn: run forward without it; see :func:`layerpipe2.engine.audited_forward.stage_context`.
    """

    def __init__(
        self,
        stage: nn.Module,
        index: int,
        delay: int,
        strategy: Strategy,
        step: Tensor,
        compute_dtype: torch.dtype | None,
        *,
        unfreezes: bool = False,
    ) -> None:
        super().__init__(stage, index, delay, strategy, step, unfreezes=unfreezes)
        on_host = self.table is None
        self._rotates = bool(self.rows) and on_host and not self.predicts
        self._updated = self.latest if on_host and not self.predicts else torch.zeros_like(self.latest)
        self._views: dict[int, list[Tensor]] = {}
        self._bounds = self._regions_of(compute_dtype)
        self._reads_rows = bool(self.rows) and on_host and compute_dtype is None
        buffers = self.rows if self._reads_rows else [self.latest.new_zeros(b - a, dtype=t) for a, b, t in self._bounds]
        self.regions = [Region(index, buffer, self.latest) for buffer, _ in zip(buffers, self._bounds, strict=False)]
        self.exchanged = [] if strategy.exact or not delay else self.regions
        self.leaves = {slot.parameter: self._leaf(slot) for slot in self.layout.slots}
        self.has_matrices = any(p.ndim >= 2 for p in self.leaves)
        self._frozen = self._cast_frozen(stage, compute_dtype)
        self._frozen_versions: list[int] = []
        self._run = ParameterSwap(stage, self.leaves | self._frozen)
        self.without_cudnn = bool(self.exchanged) and self.latest.is_cuda and has_recurrent_layer(stage)
        self.refill()

    def load(self, optimizer: Any = None) -> None:
        """Before batch ``t``: make what its forward pass reads, ``W(t - d)`` by default, the compute weights.

        Raises:
            UserError: if a parameter was changed since the last update.
        """
        with torch.no_grad():
            if self._noted != self._versions() or self._places != self._addresses():
                self.check_unchanged()
            for parameter, copied in self._frozen.items():
                copied.copy_(parameter)
            self._frozen_versions = [copied._version for copied in self._frozen.values()]
            for parameter, leaf in self.leaves.items():
                leaf.grad = None
                if leaf.requires_grad != parameter.requires_grad:
                    leaf.requires_grad_(parameter.requires_grad)
            self.begin_step(optimizer)
            used = self.used()
            if self._reads_rows:
                self._compute_with(used)
            for (start, stop, _), region in zip(self._bounds, self.regions, strict=True):
                if not self._reads_rows:
                    region.compute.copy_(used[start:stop])
                region.recalled = region.compute  # a stage may differentiate within its forward pass

    def recall(self) -> None:
        """After the forward pass of batch ``t``: the weights of its backward pass, where one region asks: when it does.

        The first stage, whose input needs no gradient, may never ask.
        """
        if not self.exchanged:
            return
        if self._reads_rows:
            self.regions[0].recalled = self.recalled
            return
        recalled = self.recalled()
        for (start, stop, dtype), region in zip(self._bounds, self.regions, strict=True):
            region.recalled = recalled[start:stop].to(dtype)

    def __call__(self, x: Tensor) -> Any:
        """Forward pass of the user's module with the compute weights in the places of its parameters.

        Raises:
            UserError: if the module has other parameters by now.
        """
        if not self._run.is_intact():
            raise network_changed(f"stage {self.index}")
        return self._run(x)

    def check_leaves(self) -> None:
        """Refuse a forward pass that gave a compute weight other memory, and hooks on parameters.

        Gradients arrive at the compute weights, where the hooks are not.

        Raises:
            UserError: naming the stage.
        """
        buffers = {storage_of(region.compute) for region in self.regions}
        if any(storage_of(leaf) not in buffers for leaf in self.leaves.values()):
            raise changed_in_forward(self.index)
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.leaves):
            raise UserError(
                f"stage {self.index} has a hook on a parameter, which delayed training would not call; change "
                "gradients in the optimizer instead"
            )

    def collect_gradients(self) -> None:
        """Hand the gradients of the compute weights to the parameters that the optimizer updates.

        Raises:
            UserError: if a parameter got a gradient itself, so the forward pass did not use its compute weight, or if
                the forward pass changed one that is frozen and was cast.
        """
        if self._frozen_versions != [copied._version for copied in self._frozen.values()]:
            raise UserError(
                f"stage {self.index} changes a frozen parameter in its forward pass, which low precision would lose; "
                "make it a buffer"
            )
        for parameter, leaf in self.leaves.items():
            if parameter.grad is not None:
                raise UserError(
                    f"stage {self.index} uses a parameter of shape {list(parameter.shape)} otherwise than as a "
                    "module's attribute (a list or a closure keeps it); it can't be delayed"
                )
            parameter.grad = None if leaf.grad is None else leaf.grad.to(parameter.dtype)
            leaf.grad = None

    def advance(self) -> None:
        """After update ``t``: show it to the strategy, and what forward passes read to the line; go to ``W(t + 1)``."""
        with torch.no_grad():
            updated = self.used() if self._rotates else self._updated
            torch._foreach_copy_(self._views_of(updated), list(self.layout.parameters))
            self.take_update(self.latest, updated)
            if self._rotates:
                self.rows[int(self.step) % self.delay], self.latest = self.latest, updated
            else:
                self.keep()
                self.latest.copy_(updated)
        self._noted = self._versions()

    def refill(self) -> None:
        """Empty the pipeline: the latest weights stand everywhere, the history starts anew."""
        with torch.no_grad():
            self.layout.gather(self.layout.parameters, self.latest)
        self._note_parameters()
        self.start()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the parameters have been loaded before.

        Raises:
            UserError: if it was saved with another strategy or another network, or with other weights than the
                parameters now hold.
        """
        super().load_state_dict(saved)
        if not self._holds_latest():
            raise foreign_weights(self.index)
        self._note_parameters()

    def check_unchanged(self) -> None:
        """Compare the parameters with the latest weights that the delay line knows, which the optimizer made.

        Raises:
            UserError: if something else changed them: it would not get into the delay line.
        """
        if not self._holds_latest():
            raise weights_changed(self.index)
        self._note_parameters()

    def _holds_latest(self) -> bool:
        now = torch.zeros_like(self.latest)
        with torch.no_grad():
            self.layout.gather(self.layout.parameters, now)
        return torch.equal(as_bytes(now), as_bytes(self.latest))

    def _compute_with(self, row: Tensor) -> None:
        """Let the compute weights be views of ``row`` (N,); a graph made with other memory can't be run back then."""
        self.regions[0].compute = row
        self.regions[0].other = [one for one in (*self.rows, self.latest) if one is not row]
        for leaf, view in zip(self.leaves.values(), self._views_of(row), strict=True):
            leaf.data = view
        torch.autograd.graph.increment_version(self.leaves.values())

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        """Views of one of the few vectors (N,) that change roles, kept."""
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = self.layout.views(flat)
        return self._views[flat.data_ptr()]

    def _note_parameters(self) -> None:
        self._noted, self._places = self._versions(), self._addresses()

    def _versions(self) -> list[int]:
        return [p._version for p in self.layout.parameters]

    def _addresses(self) -> list[int]:
        return [p.data_ptr() for p in self.layout.parameters]

    def _regions_of(self, compute_dtype: torch.dtype | None) -> list[tuple[int, int, torch.dtype]]:
        own, kept, size = self.latest.dtype, self.layout.kept, self.layout.size
        if compute_dtype is None:
            return [(0, size, own)]
        return [bounds for bounds in ((0, kept, own), (kept, size, compute_dtype)) if bounds[0] < bounds[1]]

    def _cast_frozen(self, stage: nn.Module, dtype: torch.dtype | None) -> dict[nn.Parameter, nn.Parameter]:
        """In low precision the weights that are not laid out are cast as well; BatchNorm's stay."""
        if dtype is None:
            return {}
        kept = batchnorm_parameters(stage)
        cast = [p for p in stage.parameters() if p not in self.leaves and p not in kept and p.is_floating_point()]
        return {p: nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in cast}

    def _leaf(self, slot: Slot) -> nn.Parameter:
        for (start, stop, _), region in zip(self._bounds, self.regions, strict=True):
            if start <= slot.offset < stop:
                return nn.Parameter(slot.view(region.compute, base=start))
        raise AssertionError("unreachable: the regions cover the layout")
