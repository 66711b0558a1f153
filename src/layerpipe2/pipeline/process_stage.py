"""One stage in the process that owns it: forward, backward, update, each when the worker loop says so.

The simulation (:mod:`layerpipe2.engine.stage`) runs forward with old weights. Here the forward pass of batch ``t`` runs
before ``d`` updates are made, so that it uses the parameters as they are; the backward pass, ``d`` updates later, finds
other weights in their places. What the strategy makes of that is the same code in both.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.audit import Audit
from layerpipe2.engine.audited_forward import AuditedForward, clip_gradients, has_recurrent_layer, stage_context
from layerpipe2.engine.frozen import FrozenParameters
from layerpipe2.engine.layout import batchnorm_buffers, check_frozen, movable
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.engine.saved_weights import Region, changed_in_forward, check_intercepted, storage_of
from layerpipe2.engine.values import one_number, one_tensor
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.errors import UserError
from layerpipe2.pipeline.passes import Pass, SplitPass, WholePass
from layerpipe2.pipeline.recomputation import KeptInput, check_recomputation, computing_with
from layerpipe2.pipeline.weight_watch import WeightWatch
from layerpipe2.strategies import Strategy


class ProcessStage:
    """Stage ``index`` of the pipeline.

    Args:
        module: the stage; its parameters are moved into one flat vector.
        index: number of the stage in the whole pipeline.
        delay: updates between the forward and the backward pass of a mini-batch.
        strategy: what the stage does about the delay.
        optimizer: over the stage's parameters; ``None`` if there is nothing to train.
        device: where the stage runs, ``None``: where its parameters lie.
        seed: of the stage's stream of random numbers.
        gradient_clip_norm: largest gradient norm, or ``None``.
        split_backward: compute the gradient of the input before those of the weights; see ``passes.py``.
        recompute_activations: of mini-batches in flight keep the inputs only, where that is less.
        unfreezes: delay parameters that are frozen now as well, because they may be unfrozen while training.

    Raises:
        UserError: if the strategy has not the weights that forward passes are to be run again with.

    Attributes:
        audited: runs the forward passes; looks again at the next one when told so.
        watch: looks for weights that something else than the optimizer has changed.
        weights: what the stage remembers of its weights; ``None`` without delay or without parameters.
        in_flight: mini-batches between forward and backward pass, oldest first, and the bytes kept for each.
        peak_bytes: most bytes that were kept for them at one time (weights and buffers of the stage not counted).
        step: number of updates since the pipeline was last empty, an int64 tensor of shape (1,).
    """

    def __init__(
        self,
        module: nn.Module,
        index: int,
        delay: int,
        strategy: Strategy,
        optimizer: Optimizer | Any | None,
        *,
        seed: int,
        device: torch.device | None = None,
        gradient_clip_norm: float | None = None,
        split_backward: bool = False,
        recompute_activations: bool = False,
        unfreezes: bool = False,
    ) -> None:
        if recompute_activations:
            check_recomputation(strategy)
        self.module, self.index, self.delay, self.strategy = module, index, delay, strategy
        self.optimizer, self.gradient_clip_norm = optimizer, gradient_clip_norm
        self.device = device = device or next((p.device for p in module.parameters()), torch.device("cpu"))
        self.stream = RandomStream(seed, index, device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.in_flight: deque[tuple[Pass | KeptInput, int]] = deque()
        moving = [p for p in module.parameters() if movable(p, unfreezes)]
        self.weights = self._flatten(unfreezes=unfreezes) if delay and moving else None
        self._delayed = moving if self.weights else []
        trained = set(() if optimizer is None else moving if delay else module.parameters())
        self._parameters = list(module.parameters())
        self._fixed = [p for p in self._parameters if p not in trained]
        self._regions = [Region(index, self.weights.latest, self.weights.latest)] if self.weights else []
        self.audited = AuditedForward(self._regions, moving=map(storage_of, batchnorm_buffers(module)))
        self._without_cudnn = bool(self._regions) and device.type == "cuda" and has_recurrent_layer(module)
        self._own = {storage_of(t) for t in (*module.parameters(), *module.buffers())}
        self._pass: Callable[[nn.Module, Tensor], Pass] = SplitPass if split_backward else WholePass
        self._recomputes = recompute_activations and delay > 0
        self._returned: Pass | None = None
        self._frozen = FrozenParameters(self._fixed if delay else (), index)
        self.watch = WeightWatch(self._delayed, self.weights.latest if self.weights else None, index, self._frozen)
        self.peak_bytes = 0

    def begin_step(self) -> None:
        """Before the passes that lead to the next update: the strategy chooses what forward passes read."""
        if self.weights is not None:
            self.weights.begin_step(self.optimizer)

    def forward(self, x: Tensor, loss: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """Forward pass of the next mini-batch with the weights as they are, or as the strategy chose them.

        Args:
            x: the stage's input (B, ...).
            loss: on the last stage, what makes the loss (scalar) from the outputs.

        Returns:
            The outputs (B, ...) and the loss, detached.

        Raises:
            UserError: if the stage returns no tensor, recalled weights could not reach its backward pass, or a
                parameter was unfrozen whose earlier values are not known, or changed while frozen.
        """
        self._frozen.check() if self.delay else check_frozen(self._fixed, self.index)
        x = x.detach()
        if self.index and x.is_floating_point():
            x.requires_grad_()
        kept = KeptInput(x, self.index)
        chosen = None if self.weights is None else self.weights.chosen
        with self._computing_with(chosen):
            passing, kept_bytes = self._run(x)
        value = None if loss is None else one_number(passing.add_loss(loss)).detach()
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

    def recompute(self) -> None:
        """Run the oldest mini-batch in flight forward again, with the weights of its forward pass.

        Buffers and random numbers are to be as they were then: :meth:`StageSnapshots.before`.

        Raises:
            UserError: if it isn't the same pass.
        """
        kept, _ = self.in_flight.popleft()
        assert isinstance(kept, KeptInput), "it has its activations"
        with self._computing_with(None if self.weights is None else self.weights.used()):
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
        for parameter in self._parameters:  # module.zero_grad() looks for them anew
            parameter.grad = None
        if self.weights is not None:
            self._regions[0].recalled = self.weights.recalled()
        return self._returned.input_gradient(gradient)

    def finish_backward(self) -> None:
        """The rest of the backward pass, if it is split."""
        assert self._returned is not None, "no backward pass has begun"
        self._returned.weight_gradients()
        self._returned = None
        if self._regions:
            self._regions[0].recalled = self._regions[0].compute  # frees what was recalled

    def update(self) -> None:
        """Apply the gradient of the mini-batch that just came back; the strategy learns of it.

        Raises:
            UserError: if something else than the optimizer has changed weights since the last update.
        """
        self.watch.check_quickly()
        clip_gradients(self.module, self.gradient_clip_norm)
        if self.weights is not None:
            self.weights.change_gradients()
        if self.optimizer is not None:
            self._apply()
        self.step += 1
        self.watch.updated()

    def _apply(self) -> None:
        weights, optimizer = self.weights, self.optimizer
        assert optimizer is not None, "there is something to train"
        if weights is None:
            optimizer.step()
            return
        weights.keep()
        before = weights.latest.clone() if weights.corrects else weights.latest
        optimizer.step()
        weights.take_update(before, weights.latest)

    def _computing_with(self, flat: Tensor | None) -> AbstractContextManager[Any]:
        """Within: the stage computes with the weights in ``flat`` (N,), if they are others than the latest."""
        if self.weights is None or flat is None or flat is self.weights.latest:
            return nullcontext()
        return computing_with(flat, self.weights, self._regions[0])

    def audit_next(self) -> None:
        """Look at the next forward pass, at the weights, and at what the optimizer updates.

        Raises:
            UserError: if something else than the optimizer has changed weights, or it updates another stage's.
        """
        self.audited.audit_next()
        self.watch.check()
        own = set(self.module.parameters())
        if self.optimizer is not None and any(p not in own for g in self.optimizer.param_groups for p in g["params"]):
            raise UserError(
                f"the optimizer of stage {self.index} was given parameters of another stage, which has its own; add "
                "parameters to the optimizer of their stage only"
            )

    def refill(self) -> None:
        """Start with an empty pipeline from the latest weights.

        Raises:
            UserError: if a parameter no longer lies where the pipeline looks for it.
        """
        self.watch.check_places()
        self.step.zero_()
        if self.weights is not None:
            self.weights.start()
        self.watch.restart()

    def _count(self, kept_bytes: int) -> None:
        """So many bytes are kept now, beside those for all mini-batches in flight."""
        self.peak_bytes = max(self.peak_bytes, kept_bytes + sum(kept for _, kept in self.in_flight))

    def _run(self, x: Tensor) -> tuple[Pass, int]:
        """The pass, and the bytes that autograd keeps for it."""
        kept: dict[int, int] = {}

        def count(saved: Tensor) -> None:
            if storage_of(saved) not in self._own:
                # The input may lie in a message, with its header.
                is_input = storage_of(saved) == storage_of(x)
                kept[storage_of(saved)] = x.nbytes if is_input else saved.untyped_storage().nbytes()

        def finish(audit: Audit) -> None:
            for root in passing.roots():
                audit.finish(root)
            if [p._version for p in self._parameters] != versions:
                raise changed_in_forward(self.index)
            has_matrices = any(p.ndim >= 2 for p in self.weights.layout.parameters) if self.weights else False
            check_intercepted(self._regions, x.requires_grad, has_matrices)

        versions = [p._version for p in self._parameters]
        with (
            stage_context(self.stream, without_cudnn=self._without_cudnn),
            self.audited.running(x, finish, observe=count),
            self._all_in_graph(),
        ):
            passing = self._pass(self.module, x)
            one_tensor(passing.y, self.index)
        return passing, sum(kept.values())

    @contextmanager
    def _all_in_graph(self) -> Iterator[None]:
        """Within: no parameter is frozen, because it may be unfrozen when the mini-batch comes back.

        Autograd leaves out the gradient of a leaf that is frozen during the backward pass.
        """
        frozen = [p for p in self._delayed if not p.requires_grad]
        for p in frozen:
            p.requires_grad_(True)
        try:
            yield
        finally:
            for p in frozen:
                p.requires_grad_(False)

    def _flatten(self, *, unfreezes: bool) -> DelayedWeights:
        """The parameters become views of the flat vector of latest weights: one memory, no copying."""
        keeps = self.strategy.needs_used
        weights = DelayedWeights(
            self.module, self.index, self.delay, self.strategy, self.step, keeps_line=keeps, unfreezes=unfreezes
        )
        with torch.no_grad():
            weights.layout.gather(weights.layout.parameters, weights.latest)
            for slot in weights.layout.slots:
                slot.parameter.data = slot.view(weights.latest)
        weights.start()
        return weights
