"""One stage of a pipeline, whoever runs its passes: the simulation in a row, or a process each when it is its turn.

The parameters are views of one flat vector of latest weights. The simulation runs the forward pass of mini-batch ``t``
when it comes back: for its passes the parameters are views of other weights, those of then. In a process the forward
pass ran ``d`` mini-batches ago, with what was the latest then. In both, a strategy that is not exact has its backward
pass read what it recalls, by the exchange of saved tensors (:mod:`layerpipe2.engine.saved_weights`).

**Passes over the weights** (N numbers read or written once), beside those of any training: forward pass, backward
pass, optimizer. A delay needs a copy of the weights per update, 2 passes; the forward pass can compute with the row of
the delay line itself, and so can the backward pass of a stash. An average ``E`` needs 7 more: record is 4 (reads two
``W``, reads and writes ``E``), recall 3 (reads ``W`` and ``E``, writes). Both are one loop each where they are compiled
(:mod:`layerpipe2.strategies.sweeps`); torch's operations make 9. What recall writes is memory that the next stage takes
again, so that the backward pass finds it in the cache: one loop for both would read two passes less and then write and
read the recalled weights of all stages in main memory, which took as long.

The simulation needs one copy more where addresses must stay (CUDA graphs), and in low precision, the cast; of small
stages all weights are copied (:mod:`layerpipe2.engine.in_place`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.accumulation import add_earlier
from layerpipe2.engine.audited_forward import has_recurrent_layer, stage_context
from layerpipe2.engine.layout import batchnorm_parameters, movable
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.engine.saved_weights import (
    Region,
    changed_in_forward,
    check_intercepted,
    storage_of,
)
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy


class Stage:
    """Stage ``index`` of a pipeline.

    Args:
        module: the stage on its final device; its parameters are moved into one flat vector, if they are delayed.
        index: number of the stage in the whole pipeline.
        delay: mini-batches whose forward pass takes place between the forward and the backward pass of one.
        strategy: what the stage does about the delay.
        step: counts the updates since the pipeline was last empty, int64 (1,); all stages of one optimizer share it.
        ahead: whether forward passes run before the updates that they miss, as in a process; else with old weights.
        trains: whether an optimizer updates the stage.
        compute_dtype: type to compute with in the simulation; ``None``: that of the parameters.
        seed: of a stream of random numbers of the stage's own; ``None``: torch's default generator.
        gradient_clip_norm: largest gradient norm, or ``None``.
        accumulate: mini-batches per update.
        unfreezes: delay parameters that are frozen now as well, because they may be unfrozen while training.

    Attributes:
        moving: the parameters that may move while training.
        weights: the delayed weights, or in low precision those that are cast; ``None`` where there is neither.
        regions: what the passes compute with; one, or two in low precision (BatchNorm's weights keep their type).
        exchanged: the regions whose saved views the backward pass must exchange.
        frozen: parameters that may not be unfrozen while training.
        stream: random numbers of the stage's own, if it has any.
        waiting: mini-batches that came back since the last update; none: an update is due.
        looks: so many updates more are looked at closely: the first two, and one after every audit.
        updated: whether it has seen an update.
    """

    def __init__(
        self,
        module: nn.Module,
        index: int,
        delay: int,
        strategy: Strategy,
        step: Tensor,
        *,
        ahead: bool = False,
        trains: bool = True,
        compute_dtype: torch.dtype | None = None,
        seed: int | None = None,
        gradient_clip_norm: float | None = None,
        accumulate: int = 1,
        unfreezes: bool = False,
    ) -> None:
        self.module, self.index, self.delay, self.strategy, self.step = module, index, delay, strategy, step
        self.clip_norm, self.accumulate = gradient_clip_norm, accumulate
        self.parameters = list(module.parameters())
        self.moving = [p for p in self.parameters if movable(p, unfreezes)]
        old = [p.data for p in self.moving]
        self.weights: DelayedWeights | None = None
        if self.moving and (delay or compute_dtype is not None):
            keeps = not ahead or strategy.needs_used
            how: dict[str, Any] = {"accumulate": accumulate, "keeps_line": keeps, "unfreezes": unfreezes}
            self.weights = DelayedWeights(module, index, delay, strategy, step, **how)
        delayed = set(self.weights.layout.parameters if self.weights else ())
        fixed = [p for p in self.parameters if p not in delayed]
        others = {storage_of(t) for t in (*fixed, *module.buffers())}
        self._audits, self.looks = 0, 2
        self.frozen = fixed if delay else [] if trains else self.parameters
        self.stream = None if seed is None else RandomStream(seed, index, step.device)
        self._ahead, self._dtype, self.waiting = ahead, compute_dtype, 0
        self._copies = not ahead and self.weights is not None and (compute_dtype or self.weights.table is not None)
        self._lay_out_regions([t for t in old if storage_of(t) not in others])
        norms = batchnorm_parameters(module)
        self._cast = [p for p in fixed if p not in norms and p.is_floating_point()] if compute_dtype else []
        self._put_aside: list[tuple[Tensor, int]] = []
        self._entered = self.updated = False
        self._gradients: list[Tensor | None] = []
        self.exchanged = self.regions if delay and (ahead or not strategy.exact) else []
        self._without_cudnn = bool(self.exchanged) and step.is_cuda and has_recurrent_layer(module)

    def _lay_out_regions(self, old_memory: list[Tensor]) -> None:
        self.regions: list[Region] = []
        self._bounds: list[tuple[int, int]] = []
        if self.weights is None:
            return
        latest, layout = self.weights.latest, self.weights.layout
        bounds: list[tuple[int, int, torch.dtype | None]] = [(0, layout.size, None)]
        if self._dtype is not None:
            bounds = [(0, layout.kept, None), (layout.kept, layout.size, self._dtype)]
        for start, stop, dtype in bounds:
            if start < stop:
                compute = latest.new_zeros(stop - start, dtype=dtype) if self._copies else latest
                self.regions.append(Region(self.index, compute, latest))
                self._bounds.append((start, stop))
        self._forbid(old_memory)

    def _forbid(self, memory: list[Tensor]) -> None:
        """A delayed forward pass may read none of ``memory``, nor other weights than its own."""
        assert self.weights is not None
        others = [*self.weights.rows, self.weights.latest] if self.delay else []
        for region in self.regions:
            region.other = [*memory, *others]

    def enter(self, flat: Tensor | None = None) -> None:
        """Let the stage compute with the weights ``flat`` (N,); in low precision with a cast copy of everything.

        Args:
            flat: ``None``: what the forward pass of the mini-batch reads that comes back next.
        """
        self._entered = True
        if self.weights is not None:
            flat = self.weights.used() if flat is None else flat
            self._enter_copy(flat) if self._copies else self._enter_row(flat)
        self._put_aside = [(p.data, p._version) for p in self._cast]
        for p in self._cast:
            p.data = p.data.to(self._dtype)

    def _enter_row(self, flat: Tensor) -> None:
        assert self.weights is not None
        self.weights.show(flat)
        region = self.regions[0]
        region.compute = region.recalled = flat  # a stage may differentiate within its forward pass

    def _enter_copy(self, flat: Tensor) -> None:
        assert self.weights is not None
        slots = self.weights.layout.slots
        self._gradients = [slot.parameter.grad if self.waiting else None for slot in slots]
        for (start, stop), region in zip(self._bounds, self.regions, strict=True):
            region.compute.copy_(flat[start:stop])
            region.recalled = region.compute
            for slot in slots:
                if start <= slot.offset < stop:
                    slot.parameter.grad = None
                    slot.parameter.data = slot.view(region.compute, base=start)

    def leave(self) -> UserError | None:
        """Put the latest weights back, and gradients into their type, if that is still to be done.

        Returns:
            The error of a forward pass that changed a parameter that is frozen and was cast.
        """
        if not self._entered:
            return None
        self._entered = False
        if self.weights is not None:
            self._leave_copy() if self._copies else self.weights.show(self.weights.latest)
        versions = [version for _, version in self._put_aside]
        changed = versions != [p._version for p in self._cast[: len(versions)]]
        for p, (own, _) in zip(self._cast, self._put_aside, strict=False):
            p.data = own
        self._put_aside = []
        if not changed:
            return None
        return UserError(
            f"stage {self.index} changes a frozen parameter in its forward pass, which low precision would lose; "
            "make it a buffer"
        )

    def _leave_copy(self) -> None:
        assert self.weights is not None
        parameters = self.weights.layout.parameters
        found = [p.grad for p in parameters]
        self.weights.show(self.weights.latest)
        for p, gradient, earlier in zip(parameters, found, self._gradients, strict=True):
            p.grad = None if gradient is None else gradient.to(p.dtype)
            add_earlier(p, earlier)
        self._gradients = []

    @contextmanager
    def computing_with(self, flat: Tensor | None) -> Iterator[None]:
        """Within: the stage computes with ``flat`` (N,); ``None``, or the latest weights: with these."""
        if self.weights is None or flat is None or flat is self.weights.latest:
            yield
            return
        self.enter(flat)
        try:
            yield
        finally:  # whoever catches an error finds the latest weights
            self.leave()
            self.regions[0].compute = self.regions[0].recalled = self.weights.latest

    def recall(self) -> None:
        """From now on a backward pass reads what the strategy recalls; in the simulation on a CPU when it first asks.

        The first stage, whose input needs no gradient, may never ask.
        """
        if not self.exchanged:
            return
        assert self.weights is not None
        if not self._copies and not self._ahead:
            self.regions[0].recalled = self.weights.recalled
            return
        with torch.no_grad():
            recalled = self.weights.recalled()
        for (start, stop), region in zip(self._bounds, self.regions, strict=True):
            region.recalled = recalled[start:stop].to(region.compute.dtype)

    def context(self) -> AbstractContextManager[Any]:
        """Within: the stage runs forward, with random numbers of its own, if it has any."""
        return stage_context(self.stream, without_cudnn=self._without_cudnn)

    def check_forward(self, input_needs_gradient: bool) -> None:
        """Check, after an audited forward pass, that recalled weights can reach its backward pass.

        Raises:
            UserError: naming the stage.
        """
        if self.weights is None:
            return
        self._audits += 1
        if self._audits == 2:  # those of the first two passes
            self._forbid([])
        parameters = self.weights.layout.parameters
        memory = {storage_of(region.compute) for region in self.regions}
        if any(storage_of(p) not in memory for p in parameters):
            raise changed_in_forward(self.index)
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters):
            raise UserError(
                f"stage {self.index} has a hook on a parameter, which would see weights and gradients of another "
                "update; change gradients in the optimizer instead"
            )
        if self.exchanged:
            check_intercepted(self.exchanged, input_needs_gradient, any(p.ndim >= 2 for p in parameters))

    def came_back(self) -> bool:
        """One mini-batch more has come back; whether an update is due."""
        self.wait_for((self.waiting + 1) % self.accumulate)
        return not self.waiting

    def wait_for(self, batches: int) -> None:
        """Set how many mini-batches have come back since the last update."""
        self.waiting = batches
        if self.weights is not None:
            self.weights.waiting = batches

    def refill(self) -> None:
        """Start with an empty pipeline from the latest weights: the delay line holds them, the strategy starts anew.

        Raises:
            UserError: if a parameter has got another shape.
        """
        self.wait_for(0)
        self.step.zero_()
        if self.weights is not None:
            self.weights.attach()
            self.weights.start()
