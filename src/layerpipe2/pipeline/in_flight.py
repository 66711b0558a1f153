"""The mini-batches of one stage between their forward and their backward pass, in the process that owns the stage.

The simulation runs forward with old weights. Here the forward pass of batch ``t`` runs before ``d`` others came back,
so that it uses the weights as they are; the backward pass, ``d`` mini-batches later, finds others in their places. What
the strategy makes of that is the same code in both: :mod:`layerpipe2.engine.stage`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.accumulation import add_earlier
from layerpipe2.engine.audit import Audit
from layerpipe2.engine.audited_forward import AuditedForward
from layerpipe2.engine.layout import batchnorm_buffers
from layerpipe2.engine.saved_weights import changed_in_forward, storage_of
from layerpipe2.engine.side_channels import SideChannels
from layerpipe2.engine.stage import Stage
from layerpipe2.engine.update import Update
from layerpipe2.engine.values import handed_on, one_number
from layerpipe2.errors import UserError
from layerpipe2.pipeline.passes import HandOn, Pass, SplitPass, WholePass
from layerpipe2.pipeline.recomputation import KeptInput, check_recomputation


class InFlight:
    """Runs the passes of ``stage``, in the order in which they are asked for.

    Args:
        stage: a stage whose forward passes run ahead.
        optimizer: over its parameters; ``None`` if there is nothing to train.
        split_backward: compute the gradient of the input before those of the weights; see ``passes.py``.
        recompute_activations: of mini-batches in flight keep the inputs only, where that is less.
        channels: what belongs to which stage; the stages of a process share it. ``None``: there are no others.
        audits: forward passes that are audited at the beginning.

    Raises:
        UserError: if the strategy has not the weights that forward passes are to be run again with.

    Attributes:
        watch: looks for weights that something else than the optimizer has changed.
        audited: runs the forward passes; looks again at the next one when told so.
        in_flight: mini-batches between forward and backward pass, oldest first, and the bytes kept for each.
        peak_bytes: most bytes that were kept for them at one time (weights and buffers of the stage not counted).
    """

    def __init__(
        self,
        stage: Stage,
        optimizer: Optimizer | Any | None,
        *,
        split_backward: bool = False,
        recompute_activations: bool = False,
        channels: SideChannels | None = None,
        audits: int = 2,
    ) -> None:
        if recompute_activations:
            check_recomputation(stage.strategy)
        self.stage, self.optimizer, self._apply = stage, optimizer, Update([stage], stage.step)
        self.watch = self._apply.watch
        self.in_flight: deque[tuple[Pass | KeptInput, int]] = deque()
        self.audited = AuditedForward(
            stage.regions,
            moving=map(storage_of, batchnorm_buffers(stage.module)),
            channels=channels or SideChannels(lambda: ((stage.index, p) for p in stage.moving)),
            exact=stage.strategy.exact,
            first=audits,
        )
        self._own = {storage_of(t) for t in (*stage.parameters, *stage.module.buffers())}
        self._splits = split_backward
        self._pass: Callable[[nn.Module, Tensor, HandOn], Pass] = SplitPass if split_backward else WholePass
        self._recomputes = recompute_activations and stage.delay > 0
        self._returned: Pass | None = None
        self.peak_bytes = 0

    def forward(
        self, x: Tensor, loss: Callable[[Tensor], Tensor] | None = None, *targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Forward pass of the next mini-batch with the weights as they are, or as the strategy chose them.

        Args:
            x: the stage's input (B, ...).
            loss: on the last stage, what makes the loss (scalar) from the outputs.
            targets: what it reads beside these.

        Returns:
            The outputs (B, ...) and the loss, detached.

        Raises:
            UserError: if the stage returns no tensors, or recalled weights could not reach its backward pass.
        """
        x, weights = x.detach(), self.stage.weights
        if self.stage.index and x.is_floating_point():
            x.requires_grad_()
        kept = KeptInput(x, self.stage.index)
        with self.stage.computing_with(None if weights is None else weights.chosen):
            passing, kept_bytes = self._run(x, with_loss=loss is not None)
        value = None
        if loss is not None:
            audited = self.audited.watches_loss
            made = self.audited.loss(lambda: passing.add_loss(loss, self.stage.accumulate), *targets)
            value = one_number(made).detach()
            if audited:
                passing.check(self.stage.index, self.stage.parameters)
        self._count(kept_bytes)
        if self._recomputes and loss is None and x.nbytes < kept_bytes:
            kept.note(passing.y)
            self.in_flight.append((kept, x.nbytes))
        else:
            self.in_flight.append((passing, kept_bytes))
        return passing.y.detach(), value

    @property
    def must_recompute(self) -> bool:
        """Whether :meth:`recompute` comes before the next backward pass."""
        return isinstance(self.in_flight[0][0], KeptInput)

    def oldest_input(self) -> Tensor:
        """The stage's input (B, ...) of the mini-batch that comes back next, as the forward pass has left it."""
        return self.in_flight[0][0].x

    def recompute(self) -> None:
        """Run the oldest mini-batch in flight forward again, with the weights of its forward pass.

        Buffers and random numbers are to be as they were then: :meth:`StageSnapshots.before`.

        Raises:
            UserError: if it isn't the same pass.
        """
        kept, _ = self.in_flight.popleft()
        assert isinstance(kept, KeptInput), "it has its activations"
        weights = self.stage.weights
        with self.stage.computing_with(None if weights is None else weights.used()):
            passing, kept_bytes = self._run(kept.x)
        kept.check(passing.y)
        self._count(kept_bytes)
        self.in_flight.appendleft((passing, kept_bytes))

    def backward(self, gradient: Tensor | None) -> Tensor | None:
        """Backward pass of the oldest mini-batch in flight, with the recalled weights, as far as the input's gradient.

        Args:
            gradient: of the stage's outputs; ``None`` on the last stage, which has the loss.

        Returns:
            The gradient of the stage's input; ``None`` if it has none.
        """
        returned, _ = self.in_flight.popleft()
        assert not isinstance(returned, KeptInput), "recompute() comes first"
        self._returned = returned
        if not self.stage.waiting:  # the first one of an update
            for parameter in self.stage.parameters:  # module.zero_grad() looks for them anew
                parameter.grad = None
        self.stage.recall()
        return self._returned.input_gradient(gradient)

    def finish_backward(self) -> None:
        """The rest of the backward pass, if it is split."""
        assert self._returned is not None, "no backward pass has begun"
        earlier = {p: p.grad for p in self.stage.parameters if p.grad is not None} if self._splits else {}
        for parameter in earlier:
            parameter.grad = None
        self._returned.weight_gradients()
        for parameter, gradient in earlier.items():
            add_earlier(parameter, gradient)
        self._returned = None
        for region in self.stage.regions:
            region.recalled = region.compute  # frees what was recalled

    def refill(self) -> None:
        """Start with an empty pipeline.

        Raises:
            UserError: as :meth:`layerpipe2.engine.stage.Stage.refill`.
        """
        self.stage.refill()
        self.watch.restart()

    def begin_step(self) -> None:
        """Begin the passes that lead to the next update.

        Raises:
            UserError: as :meth:`layerpipe2.engine.update.Update.begin`.
        """
        self._apply.begin(self.optimizer)

    def update(self) -> None:
        """The mini-batch is back: apply gradients, if it is the last one of an update.

        Raises:
            UserError: as :class:`layerpipe2.engine.update.Update`.
        """
        if self.stage.came_back():
            self._apply(self.optimizer)

    def audit_next(self) -> None:
        """Look at the next forward pass, at the weights, and at what the optimizer updates.

        Raises:
            UserError: if something else than the optimizer has changed weights, or it updates another stage's.
        """
        self.audited.audit_next()
        self.watch.check()
        self.stage.looks += 1
        own, groups = set(self.stage.parameters), self.optimizer.param_groups if self.optimizer is not None else ()
        if any(p not in own for group in groups for p in group["params"]):
            raise UserError(
                f"the optimizer of stage {self.stage.index} was given parameters of another stage, which has its own; "
                "add parameters to the optimizer of their stage only"
            )

    def _count(self, kept_bytes: int) -> None:
        """Note that so many bytes are kept now, beside those for all mini-batches in flight."""
        self.peak_bytes = max(self.peak_bytes, kept_bytes + sum(kept for _, kept in self.in_flight))

    def _run(self, x: Tensor, *, with_loss: bool = False) -> tuple[Pass, int]:
        """The pass, and the bytes that autograd keeps for it."""
        kept: dict[int, int] = {}
        stage = self.stage

        def count(saved: Tensor) -> None:
            if storage_of(saved) not in self._own:
                # The input may lie in a message, with its header.
                is_input = storage_of(saved) == storage_of(x)
                kept[storage_of(saved)] = x.nbytes if is_input else saved.untyped_storage().nbytes()

        def finish(audit: Audit) -> None:
            for root in passing.roots():
                audit.leave(root)
                audit.finish(root)
            if [p._version for p in stage.parameters] != versions:
                raise changed_in_forward(stage.index)
            passing.check(stage.index, stage.parameters)
            stage.check_forward(x.requires_grad)

        versions = [p._version for p in stage.parameters]
        running = self.audited.running(x, finish, observe=count, with_loss=with_loss)
        with stage.context(), running as audit, self._all_in_graph():
            if audit is not None:
                audit.enter(stage.index, x)
            passing = self._pass(stage.module, x, lambda y: handed_on(y, stage.index, last=with_loss))
        return passing, sum(kept.values())

    @contextmanager
    def _all_in_graph(self) -> Iterator[None]:
        """Within: no parameter is frozen, because it may be unfrozen when the mini-batch comes back.

        Autograd leaves out the gradient of a leaf that is frozen during the backward pass.
        """
        weights = self.stage.weights
        frozen = [p for p in weights.layout.parameters if not p.requires_grad] if weights is not None else []
        for p in frozen:
            p.requires_grad_(True)
        try:
            yield
        finally:
            for p in frozen:
                p.requires_grad_(False)
