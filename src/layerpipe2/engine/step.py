"""The delayed training step: one ordinary training loop in which every stage reads delayed weights.

This is the retimed form of the pipeline: with ``t`` counting mini-batches, stage ``k`` runs the forward pass of batch
``t`` with ``W_k(max(0, t - d_k))``, its backward pass with what its strategy makes of them, and applies the gradient to
``W_k(t)``, where every mini-batch makes an update (several: :mod:`layerpipe2.engine.accumulation`). It equals the
clock-driven machine with activations travelling from stage to stage (``tests/reference.py``) to rounding. On a GPU
everything that depends on ``t`` is indexed by a counter on the device, so that one step can be captured as a CUDA
graph; the CPU takes the row itself.

The modules that the user gave hold the latest weights ``W(t)``: optimizers, callbacks, validation, ``state_dict`` work
as ever. Only from the forward to the end of the backward pass are the parameters of delayed stages views of others.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.delays import Delays
from layerpipe2.engine.accumulation import check_accumulation
from layerpipe2.engine.audit import Audit
from layerpipe2.engine.audited_forward import AuditedForward
from layerpipe2.engine.divergence import Divergence, find_divergence, is_finite
from layerpipe2.engine.in_place import InPlace, is_small
from layerpipe2.engine.layout import check_pipeline, freeze_only, frozen_names
from layerpipe2.engine.packing import cast, unpack
from layerpipe2.engine.side_channels import SideChannels
from layerpipe2.engine.stage import Stage
from layerpipe2.engine.update import Update
from layerpipe2.engine.values import handed_on, one_number
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy

Loss = Callable[[Tensor, Tensor], Tensor]
Hook = Callable[..., None]


class PipelineEngine:
    """Delayed training of ``stages`` with ``delays``, about which each stage does what ``strategy`` says.

    Args:
        stages: the network's stages on their final device, input side first.
        delays: one delay per stage.
        strategy: what a stage does about its delay, the same for every stage.
        compute_dtype: ``None`` computes in the parameters' own type. ``torch.bfloat16`` casts activations and all
            weights but BatchNorm's once per step; the parameters, updates and averages keep their own type.
        gradient_clip_norm: largest gradient norm *per stage*: in a pipeline the stages never hold the gradients of
            one batch at one time, so a norm over the whole network could not be had. ``None`` for no clipping.
        stage_seed: gives each stage a stream of random numbers of its own (dropout), as stages that run at the same
            time have; ``None`` draws from torch's default generator.
        unfreezes: delay parameters that are frozen now as well, because they may be unfrozen while training.
        accumulate: mini-batches per update, whose gradients are averaged; delays count mini-batches.

    Attributes:
        delayed: stage -> its delayed weights (in low precision those that are cast as well).
        step_count: updates since the pipeline was last empty, int64 (1,).
        watch: looks for weights that something else than the optimizer has changed.
        packs: whether a stage has handed on several tensors.
        divergence: where the first loss that was not finite came from, on the CPU.

    Raises:
        UserError: if the delays do not fit the stages, or a stage cannot be laid out.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        delays: Delays,
        strategy: Strategy,
        *,
        compute_dtype: torch.dtype | None = None,
        gradient_clip_norm: float | None = None,
        stage_seed: int | None = None,
        unfreezes: bool = False,
        accumulate: int = 1,
    ) -> None:
        check_pipeline(stages, delays, compute_dtype, unfreezes=unfreezes)
        check_accumulation(accumulate, strategy, delays)
        self.stages = list(stages)
        self.delays, self.strategy, self.compute_dtype, self.accumulate = delays, strategy, compute_dtype, accumulate
        self._parameters = [p for stage in stages for p in stage.parameters()]
        device = next((p.device for p in self._parameters), torch.device("cpu"))
        self.step_count = torch.zeros(1, dtype=torch.int64, device=device)
        how: dict[str, Any] = {"compute_dtype": compute_dtype, "seed": stage_seed, "unfreezes": unfreezes}
        how |= {"gradient_clip_norm": gradient_clip_norm, "accumulate": accumulate}
        self.placed = [
            Stage(stage, k, delay, strategy, self.step_count, **how)
            for k, (stage, delay) in enumerate(zip(stages, delays.per_stage, strict=True))
        ]
        self.delayed = {stage.index: stage.weights for stage in self.placed if stage.weights is not None}
        exchanged = [region for stage in self.placed for region in stage.exchanged]
        others = [region for stage in self.placed if not stage.exchanged for region in stage.regions]
        channels = SideChannels(self._owned) if any(delays.per_stage) else None
        self._forward = AuditedForward(exchanged, others, channels=channels, exact=strategy.exact)
        self._in_place: InPlace | None = None
        if compute_dtype is None and not strategy.exact and is_small([*self.delayed.values()]):
            # A loss may read the weights of the last stage, whose own backward pass is that of the forward weights.
            self._in_place = None if delays.per_stage[-1] else InPlace([*self.delayed.values()], strategy)
        self._computes_in_place = False
        self._apply = Update(self.placed, self.step_count)
        self.watch = self._apply.watch
        self._outputs: list[Tensor] = []
        self._interrupted, self._first_update = False, accumulate > 1
        self.packs = False
        self.divergence: Divergence | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise UserError("a pipeline under way can't be copied; copy its stages and lay out a pipeline of their own")

    def train_step(
        self, x: Tensor, y: Tensor, loss: Loss, optimizer: Optimizer | Any, hook: Hook | None = None
    ) -> tuple[Tensor, Tensor]:
        """One mini-batch: forward pass, backward pass and, if it is the last of those for an update, the update.

        Args:
            x: inputs (B, ...); y: targets, as ``loss`` wants them.
            optimizer: over the parameters of the stages; its ``step()`` is called once per update.
            hook: called with the name of each of Lightning's hooks between the forward pass and the update (but
                ``on_before_optimizer_step``, which ``optimizer`` calls), and with its arguments.

        Returns:
            The loss (scalar) and the outputs (B, ...), detached.

        Raises:
            UserError: if a stage, the loss or a parameter is not what a pipeline can train; the message says why.
        """
        self.begin(optimizer)
        try:
            outputs = self.forward(x)
            value = one_number(self._forward.loss(lambda: loss(outputs, y), y))
            if self.divergence is None and not is_finite(value):
                self.divergence = find_divergence(x, [stage.parameters() for stage in self.stages], self._outputs)
            self._outputs = []
            if not value.requires_grad:
                raise UserError("nothing of the network is trainable: all parameters are frozen; unfreeze some")
            if not self.waiting:
                self._call(hook, "on_before_zero_grad", optimizer)
                given = (p for group in optimizer.param_groups for p in group["params"])
                for parameter in (*self._parameters, *given):  # Module.zero_grad looks for all modules again
                    parameter.grad = None
            self._call(hook, "on_before_backward", value)
            share = None if self.accumulate == 1 else torch.ones_like(value) / self.accumulate
            self._interrupted = self.accumulate > 1  # a part of a gradient may stay behind
            if self._in_place is not None and self._computes_in_place:
                self._in_place.recall()
            value.backward(share)  # type: ignore[no-untyped-call]
        finally:
            self.end()
        if hook is not None:
            hook("on_after_backward")
        due = [stage.came_back() for stage in self.placed]
        if all(due):
            self._update(optimizer)
        self._interrupted = False
        return value.detach(), outputs.detach()

    def expect_changes_in_step(self) -> None:
        """Callbacks may change weights within the optimizer's step, before the optimizer does."""
        self._apply.hooked = True

    def _update(self, optimizer: Optimizer | Any) -> None:
        self._interrupted = True
        self._apply(optimizer)
        if self._first_update:  # only now a pass may read other memory than the first one
            self._first_update = False
            self._forward.audit_next()

    def begin(self, optimizer: Optimizer | Any = None) -> None:
        """Begin a mini-batch: from now on the parameters are those that its forward pass reads.

        Raises:
            UserError: as :meth:`Update.begin`, and after an error in the middle of an update.
        """
        if self._interrupted:
            raise UserError(
                "an error has interrupted an update, so that gradients and delay lines are half-way; call refill(), or "
                "resume from a checkpoint"
            )
        self._apply.begin(optimizer)
        # An audited pass computes in other memory, and so sees what was a view of the parameters before.
        self._computes_in_place = self._in_place is not None and not self._forward.audits
        self._enter()

    def _enter(self) -> None:
        if self._in_place is not None and self._computes_in_place:
            self._in_place.enter()
        else:
            for stage in self.placed:
                stage.enter()

    def end(self) -> None:
        """End a mini-batch's passes: the parameters are the latest weights again.

        Raises:
            UserError: if a stage has changed a frozen parameter, which low precision would lose.
        """
        if self._in_place is not None:
            self._in_place.leave()
        errors = [stage.leave() for stage in self.placed]
        for error in filter(None, errors):
            raise error

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass after :meth:`begin`; audited after :meth:`audit_next` (and the first two).

        Raises:
            UserError: if a stage returns no tensors; audited: if recalled weights could not reach a backward pass.
        """
        if self.compute_dtype is not None:
            x = cast(x, self.compute_dtype)
        needs_gradient: list[bool] = []
        self._outputs = []
        finish = lambda audit: self._finish_audit(audit, x, needs_gradient)  # noqa: E731
        exchanges = not self._computes_in_place
        with self._forward.running(x, finish, with_loss=True, exchanges=exchanges) as audit:
            for stage in self.placed:
                needs_gradient.append(x.requires_grad)
                if audit is not None:
                    audit.enter(stage.index, x)
                with stage.context():
                    last = stage is self.placed[-1]
                    y = stage.module(unpack(x))
                    x, self.packs = handed_on(y, stage.index, last=last), self.packs or not isinstance(y, Tensor)
                if audit is not None:
                    audit.leave(x)
                self._outputs.append(x)
        for stage in self.placed if exchanges else ():
            stage.recall()
        return x if self.compute_dtype is None else x.float()

    def audit_next(self) -> None:
        """Check the next forward pass again, a network may take another way by then; and the weights now.

        Raises:
            UserError: if something else than the optimizer has changed weights, also through ``.data``.
        """
        self._forward.audit_next()
        self.check_unchanged()
        for stage in self.placed:
            stage.looks += 1

    def check_unchanged(self) -> None:
        """Compare the weights with what the optimizer made of them.

        Raises:
            UserError: if something else has changed them, also through ``.data``.
        """
        self.watch.check()

    def note(self) -> None:
        """Keep copies of weights until the next mini-batch: :meth:`check_unchanged` then sees those by ``.data``."""
        self.watch.note()

    def refill(self) -> None:
        """Start with an empty pipeline from the latest weights: all delay lines hold them, all averages are zero."""
        self._interrupted = False
        for stage in self.placed:
            stage.refill()
        self.watch.restart()

    def state_dict(self) -> dict[str, Any]:
        """Step counter, delay lines, the strategy's states: tensors, and plain values that say what they belong to.

        Between the mini-batches of one update, also the gradients so far.
        """
        gradients = [None if p.grad is None else p.grad.clone() for p in self._parameters] if self.waiting else []
        return {
            "kind": self._kind(),
            "step_count": self.step_count.clone(),
            "stages": {str(k): weights.state_dict() for k, weights in self.delayed.items()},
            "streams": {str(s.index): s.stream.state_dict() for s in self.placed if s.stream is not None},
            "frozen": {str(k): frozen_names(stage) for k, stage in enumerate(self.stages)},
            "waiting": self.waiting,
            "gradients": gradients,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UserError: if it was saved with other delays, another strategy or precision, or other weights.
        """
        saved, mine = state["kind"], self._kind()
        differing = [name for name in mine if name in saved and saved[name] != mine[name]]
        if differing:
            theirs, ours = ({name: kind.get(name) for name in differing} for kind in (saved, mine))
            raise UserError(
                f"checkpoint was saved with {theirs}, this pipeline has {ours}; resume with the same stages, delays, "
                "strategy and precision"
            )
        self.step_count.copy_(state["step_count"])
        for k, module in enumerate(self.stages):
            freeze_only(module, state["frozen"][str(k)])
        for k, weights in self.delayed.items():
            weights.load_state_dict(state["stages"][str(k)])
        for stage in self.placed:
            if stage.stream is not None:
                stage.stream.load_state_dict(state["streams"][str(stage.index)])
            stage.wait_for(state.get("waiting", 0))
        self.watch.restart()
        self._interrupted = False
        for parameter, gradient in zip(self._parameters, state.get("gradients", ()), strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter)

    def _kind(self) -> dict[str, Any]:
        return {
            "delays": list(self.delays.per_stage),
            "strategy": self.strategy.kind,
            "compute": str(self.compute_dtype),
            "random numbers": "one" if self.placed[0].stream is None else "one per stage",
            "mini-batches per update": self.accumulate,
        }

    @property
    def waiting(self) -> int:
        """Mini-batches that came back since the last update."""
        return self.placed[0].waiting

    def _call(self, hook: Hook | None, name: str, *args: Any) -> None:
        """Let callbacks look on between the passes; they find the latest weights."""
        if hook is None:
            return
        self.end()
        hook(name, *args)
        self.watch.check_quickly()
        self._enter()
        for stage in () if self._computes_in_place else self.placed:
            stage.recall()

    def _owned(self) -> Iterator[tuple[int, Tensor]]:
        """All parameters that may move, with the number of their stage."""
        return ((stage.index, parameter) for stage in self.placed for parameter in stage.moving)

    def _finish_audit(self, audit: Audit, outputs: Tensor, needs_gradient: list[bool]) -> None:
        audit.finish(outputs)
        for stage, needs in zip(self.placed, needs_gradient, strict=True):
            stage.check_forward(needs)
