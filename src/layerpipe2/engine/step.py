"""The delayed training step: one ordinary training loop in which every stage reads delayed weights.

This is the retimed form of the pipeline: with ``t`` counting mini-batches, stage ``k`` runs the forward pass of batch
``t`` with ``W_k(max(0, t - d_k))``, its backward pass with weights recalled by the weight history, and applies the
gradient to ``W_k(t)``. It equals the clock-driven machine with activations travelling from stage to stage
(``tests/reference.py``) to rounding. Everything that depends on ``t`` is indexed by a counter on the device, so that
one step can be captured as a CUDA graph.

The modules that the user gave always hold the latest weights ``W(t)``: optimizers, validation, ``state_dict`` work as
ever. Only while a delayed stage runs forward do views of a flat compute buffer stand in its parameters' places.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.delays import Delays
from layerpipe2.engine.audit import Audit
from layerpipe2.engine.audited_forward import AuditedForward, clip_gradients, stage_context
from layerpipe2.engine.divergence import Divergence, find_divergence, is_finite
from layerpipe2.engine.frozen import FrozenParameters
from layerpipe2.engine.layout import check_pipeline, delayed_stages, freeze_only, frozen_names
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.engine.saved_weights import check_intercepted
from layerpipe2.engine.stage import DelayedStage
from layerpipe2.engine.values import one_number, one_tensor
from layerpipe2.errors import UserError
from layerpipe2.strategies import Strategy

Loss = Callable[[Tensor, Tensor], Tensor]
Hook = Callable[..., None]


def _states(gradients: Iterable[Tensor | None]) -> list[tuple[int, int] | None]:
    return [None if gradient is None else (id(gradient), gradient._version) for gradient in gradients]


def _no_hook(*_: Any) -> None:
    """Outside of a ``Trainer`` nobody waits for hooks."""


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

    Attributes:
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
    ) -> None:
        check_pipeline(stages, delays, compute_dtype, unfreezes=unfreezes)
        self.stages = list(stages)
        self._parameters = [p for stage in stages for p in stage.parameters()]
        self.delays = delays
        self.strategy = strategy
        self.compute_dtype = compute_dtype
        self.gradient_clip_norm = gradient_clip_norm
        device = next((p.device for stage in stages for p in stage.parameters()), torch.device("cpu"))
        self.step_count = torch.zeros(1, dtype=torch.int64, device=device)
        self.delayed = {
            k: DelayedStage(
                stages[k], k, delays.per_stage[k], strategy, self.step_count, compute_dtype, unfreezes=unfreezes
            )
            for k in delayed_stages(stages, delays, compute_dtype, unfreezes=unfreezes)
        }
        self._frozen = [
            FrozenParameters(
                [p for p in stages[k].parameters() if k not in self.delayed or p not in self.delayed[k].leaves], k
            )
            for k, delay in enumerate(delays.per_stage)
            if delay
        ]
        seeded = range(len(self.stages) if stage_seed is not None else 0)
        self._streams = {k: RandomStream(stage_seed or 0, k, device) for k in seeded}
        exchanged = [region for stage in self.delayed.values() for region in stage.exchanged]
        others = [region for stage in self.delayed.values() if not stage.exchanged for region in stage.regions]
        self._forward = AuditedForward(exchanged, others)
        self._outputs: list[Tensor] = []
        self.divergence: Divergence | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise UserError("a pipeline under way can't be copied; copy its stages and lay out a pipeline of their own")

    def train_step(
        self, x: Tensor, y: Tensor, loss: Loss, optimizer: Optimizer | Any, hook: Hook = _no_hook
    ) -> tuple[Tensor, Tensor]:
        """One mini-batch: forward pass, backward pass, update.

        Args:
            x: inputs (B, ...); y: targets, as ``loss`` wants them.
            optimizer: over the parameters of the stages; its ``step()`` is called once.
            hook: called with the name of each of Lightning's hooks between the forward pass and the update (but
                ``on_before_optimizer_step``, which ``optimizer`` calls), and with its arguments.

        Returns:
            The loss (scalar) and the outputs (B, ...), detached.

        Raises:
            UserError: if a stage, the loss or a parameter is not what a pipeline can train; the message says why.
        """
        for frozen in self._frozen:
            frozen.check()
        for stage in self.delayed.values():
            stage.load(optimizer)
        outputs = self.forward(x)
        value = one_number(loss(outputs, y))
        if self.divergence is None and not is_finite(value):
            self.divergence = find_divergence(x, [self._weights(k) for k in range(len(self.stages))], self._outputs)
        self._outputs = []
        if not value.requires_grad:
            raise UserError("nothing of the network is trainable: all parameters are frozen; unfreeze some")
        hook("on_before_zero_grad", optimizer)
        given = (p for group in optimizer.param_groups for p in group["params"])
        for parameter in (*self._parameters, *given):  # Module.zero_grad looks for all modules again in every step
            parameter.grad = None
        hook("on_before_backward", value)
        value.backward()  # type: ignore[no-untyped-call]
        for stage in self.delayed.values():
            stage.collect_gradients()
        hook("on_after_backward")
        for module in self.stages:
            clip_gradients(module, self.gradient_clip_norm)
        self._update(optimizer)
        return value.detach(), outputs.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass with the delayed weights last loaded; audited after :meth:`audit_next` (and the first two).

        Raises:
            UserError: if a stage returns no tensor; audited: if recalled weights could not reach a backward pass.
        """
        if self.compute_dtype is not None and x.is_floating_point():
            x = x.to(self.compute_dtype)
        needs_gradient: list[bool] = []
        self._outputs = []
        with self._forward.running(x, lambda audit: self._finish_audit(audit, x, needs_gradient)):
            for k in range(len(self.stages)):
                needs_gradient.append(x.requires_grad)
                x = self._run(k, x)
                self._outputs.append(x)
        for delayed in self.delayed.values():
            delayed.recall()
        return x if self.compute_dtype is None else x.float()

    def audit_next(self) -> None:
        """Check the next forward pass again, a network may take another way by then; and the weights now.

        Raises:
            UserError: if something else than the optimizer has changed weights, also through ``.data``.
        """
        self._forward.audit_next()
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Compare the weights with what the optimizer made of them.

        Raises:
            UserError: if something else has changed them, also through ``.data``.
        """
        for stage in self.delayed.values():
            stage.check_unchanged()
        for frozen in self._frozen:
            frozen.check_unchanged()

    def refill(self) -> None:
        """Start with an empty pipeline from the latest weights: all delay lines hold them, all averages are zero."""
        self.step_count.zero_()
        for stage in self.delayed.values():
            stage.refill()
        for frozen in self._frozen:
            frozen.note()

    def state_dict(self) -> dict[str, Any]:
        """Step counter, delay lines, the strategy's states: tensors, and plain values that say what they belong to."""
        stages = {str(k): stage.state_dict() for k, stage in self.delayed.items()}
        streams = {str(k): stream.state_dict() for k, stream in self._streams.items()}
        frozen = {str(k): frozen_names(stage) for k, stage in enumerate(self.stages)}
        return {
            "kind": self._kind(),
            "step_count": self.step_count.clone(),
            "stages": stages,
            "streams": streams,
            "frozen": frozen,
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
        for k, stage in self.delayed.items():
            stage.load_state_dict(state["stages"][str(k)])
        for k, stream in self._streams.items():
            stream.load_state_dict(state["streams"][str(k)])

    def _kind(self) -> dict[str, Any]:
        streams = "one per stage" if self._streams else "one"
        return {
            "delays": list(self.delays.per_stage),
            "strategy": self.strategy.kind,
            "compute": str(self.compute_dtype),
            "random numbers": streams,
        }

    def _weights(self, k: int) -> list[Tensor]:
        delayed = self.delayed.get(k)
        return list(delayed.leaves.values() if delayed is not None else self.stages[k].parameters())

    def _run(self, k: int, x: Tensor) -> Tensor:
        delayed = self.delayed.get(k)
        with stage_context(self._streams.get(k), without_cudnn=delayed is not None and delayed.without_cudnn):
            return one_tensor((delayed or self.stages[k])(x), k)

    def _finish_audit(self, audit: Audit, outputs: Tensor, needs_gradient: list[bool]) -> None:
        audit.finish(outputs)
        for k, stage in self.delayed.items():
            stage.check_leaves()
            if stage.exchanged:
                check_intercepted(stage.exchanged, needs_gradient[k], stage.has_matrices)

    def _update(self, optimizer: Optimizer | Any) -> None:
        stages = self.delayed.values()
        for stage in stages:
            stage.change_gradients()
        seen = [p for stage in stages if stage.compensates for p in stage.layout.parameters]
        gradients = [p.grad for p in seen]  # alive, so that no other gets their address
        known = _states(gradients)
        optimizer.step()
        if known != _states(p.grad for p in seen):
            raise UserError(
                f"gradients were changed within the optimizer's step (a callback's on_before_optimizer_step?), after "
                f"strategy '{self.strategy.name or self.strategy.kind}' has seen them; change gradients in "
                "on_after_backward"
            )
        for stage in stages:
            stage.advance()
        self.step_count += 1
