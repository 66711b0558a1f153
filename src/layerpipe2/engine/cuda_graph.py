"""The whole training step as one CUDA graph: the host launches once per mini-batch instead of a thousand times."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.packing import is_packed
from layerpipe2.engine.step import Loss, PipelineEngine
from layerpipe2.errors import UserError

# Real training steps before the capture: they create the optimizer's state and let cuDNN choose its kernels.
_EAGER_STEPS = 3


def why_not_capturable(optimizer: Optimizer) -> str | None:
    """Why a step with this optimizer can't be captured, with the remedy; ``None`` if it can."""
    for group in optimizer.param_groups:
        if not group.get("fused"):
            return f"{type(optimizer).__name__} is not fused: give it fused=True"
        if not group.get("capturable", True):
            return f"{type(optimizer).__name__} is not capturable: give it capturable=True"
    return None


def _captured_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Per group, the settings that a captured step holds as numbers: all but the learning rate."""
    free = ("params", "lr", "initial_lr")
    return [{name: value for name, value in group.items() if name not in free} for group in optimizer.param_groups]


class CapturedStep:
    """:meth:`PipelineEngine.train_step` on CUDA, captured once and replayed; same arithmetic, same results.

    Three kinds of steps run eagerly: the first steps, batches of another shape than the graph has (the last, smaller
    batch of an epoch), and steps for which a scheduler has changed more than the learning rate (OneCycleLR's momentum).
    Every state is updated in place, so that eager and replayed steps mix. Learning rates become device tensors, which
    schedulers fill in place.

    Args:
        engine: the pipeline, on a CUDA device.
        loss: ``loss(outputs, targets)`` -> scalar.
        optimizer: over the pipeline's parameters, without a reason in :func:`why_not_capturable`.
    """

    def __init__(self, engine: PipelineEngine, loss: Loss, optimizer: Optimizer) -> None:
        self.engine, self.loss, self.optimizer = engine, loss, optimizer
        self.device = engine.step_count.device
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(self.device).clone()
        self._eager_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._results: tuple[Tensor, Tensor] | None = None
        self._settings: list[dict[str, Any]] = []

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One mini-batch: (B, ...) inputs and targets -> loss (scalar) and outputs, valid until the next step."""
        if self._graph is None and self._eager_steps >= _EAGER_STEPS:
            self._capture(x, y)
        if self._graph is None or self._inputs is None or self._results is None or not self._fits(x, y):
            return self._eager(x, y)
        for static, given in zip(self._inputs, (x, y), strict=True):
            static.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._results

    def _eager(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # On a side stream, as the capture will be: autograd remembers the stream of a leaf's first use.
        self._eager_steps += 1
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            results = self.engine.train_step(x, y, self.loss, self.optimizer)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        for tensor in (x, y, *results):
            tensor.record_stream(stream)
        return results

    def _capture(self, x: Tensor, y: Tensor) -> None:
        if self.engine.packs or is_packed(x) or is_packed(y):
            raise UserError("stages pass on several tensors, which a CUDA graph can't read; leave cuda_graph out")
        self._settings = _captured_settings(self.optimizer)
        self._inputs = (x.clone(memory_format=torch.preserve_format), y.clone())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self.engine.train_step(*self._inputs, self.loss, self.optimizer)
        self._graph = graph

    def _fits(self, x: Tensor, y: Tensor) -> bool:
        if self._settings != _captured_settings(self.optimizer):
            return False
        return self._inputs is not None and self._inputs[0].shape == x.shape and self._inputs[1].shape == y.shape
