"""Measure a stage's work by running it once on torch's meta device: shapes flow, no number is computed.

FLOPs are those that torch's own counter finds in the operations that autograd really runs. The two gradients are
told apart by asking for them: the gradient of the input alone runs the activation gradients of all layers, the
gradient of input and parameters runs both; the difference is the weight gradients'. What the forward pass keeps is
what autograd saves, each storage once, without parameters and buffers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from layerpipe2.errors import UserError, integer
from layerpipe2.planning.work import Gemm, StageWork, Work

_Layer = tuple[Gemm, Gemm | None, Gemm]
_WEIGHED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def measure(
    stages: Sequence[nn.Module], input_shape: Sequence[int], batch_size: int, dtype: torch.dtype = torch.float32
) -> tuple[StageWork, ...]:
    """Measure each stage's work for a mini-batch of inputs (batch_size, *input_shape): float32, or int64 for tokens.

    Raises:
        UserError: on a batch size below 1, or a stage that refuses its input's shape.
    """
    integer(batch_size, "batch size", 1)
    return measure_from(stages, torch.empty(batch_size, *input_shape, dtype=dtype, device="meta"))


def measure_from(stages: Sequence[nn.Module], x: Any) -> tuple[StageWork, ...]:
    """The same for a mini-batch of inputs, a tensor or a flat structure of tensors, of which only the shapes count.

    Raises:
        UserError: on a stage that refuses its input's shape.
    """
    x = tree_map(lambda part: torch.empty_like(part, device="meta"), x)
    found = []
    for number, stage in enumerate(stages):
        try:
            y, work = _measure_stage(stage, x, first=number == 0)
        except (RuntimeError, ValueError) as error:
            shape = " and ".join(str(list(part.shape)) for part in tree_leaves(x))
            what = f"stage {number} cannot take an input of shape {shape} ({' '.join(str(error).split())})"
            raise UserError(f"{what}; give the input shape that the network was built for") from None
        found.append(work)
        x = y
    return tuple(found)


def _measure_stage(stage: nn.Module, x: Any, first: bool) -> tuple[Any, StageWork]:
    state = _on_meta(stage)
    weights = [p for p in state.values() if p.requires_grad]
    saved: list[Tensor] = []
    layers: list[_Layer] = []
    source = _sources(x, with_gradient=not first)
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: _kept(saved, t), lambda t: t)
    hooks = [m.register_forward_hook(partial(_record, layers)) for m in stage.modules() if isinstance(m, _WEIGHED)]
    try:
        with keep, FlopCounterMode(display=False) as forward:
            y = torch.func.functional_call(stage, state, (source,))
    finally:
        for hook in hooks:
            hook.remove()
    activation, weight = _gradient_flops(stage, state, x, first)
    # torch's counter (2.13) takes a grouped weight gradient for an ungrouped one: groups times too many operations.
    weight -= sum((gemm.count - 1) * gemm.flops for _, _, gemm in layers) if weights else 0
    gemms = zip(*layers, strict=True) if layers else iter(((), (), ()))
    products = [tuple(g for g in pass_ if g is not None) for pass_ in gemms]
    work = StageWork(
        Work(forward.get_total_flops(), products[0]),
        Work(activation, products[1]),
        Work(weight, products[2] if weights else ()),
        parameter_bytes=sum(_size(p) for p in weights),
        saved_bytes=_saved_bytes(saved, state.values()),
        input_bytes=sum(map(_size, tree_leaves(x))),
        output_bytes=sum(map(_size, tree_leaves(y))),
    )
    return tree_map(Tensor.detach, y), work


def _sources(x: Any, *, with_gradient: bool) -> Any:
    return tree_map(lambda part: part.detach().requires_grad_(with_gradient and part.is_floating_point()), x)


def _on_meta(stage: nn.Module) -> dict[str, Tensor]:
    tensors = (*stage.named_parameters(), *stage.named_buffers())
    return {n: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad) for n, t in tensors}


def _gradient_flops(stage: nn.Module, state: dict[str, Tensor], x: Any, first: bool) -> tuple[int, int]:
    """Count the FLOPs of the activation gradients and of the weight gradients."""
    weights = [p for p in state.values() if p.requires_grad]
    source = _sources(x, with_gradient=True)
    y = torch.func.functional_call(stage, state, (source,))
    # Token numbers have no gradient: that of their embedding runs all activation gradients.
    start = [part for part in tree_leaves(source) if part.requires_grad] or _embeddings(stage, state)
    activation = _backward_flops(y, start)
    weight = _backward_flops(y, [*start, *weights]) - activation
    if first:
        y = torch.func.functional_call(stage, state, (_sources(x, with_gradient=False),))
        activation = _backward_flops(y, weights) - weight
    return activation, weight


def _embeddings(stage: nn.Module, state: dict[str, Tensor]) -> list[Tensor]:
    names = (f"{name}.weight".lstrip(".") for name, m in stage.named_modules() if isinstance(m, nn.Embedding))
    return [state[name] for name in names if name in state and state[name].requires_grad]


def _backward_flops(y: Any, inputs: list[Tensor]) -> int:
    made = [part for part in tree_leaves(y) if part.requires_grad]
    with FlopCounterMode(display=False) as counter:
        if inputs and made:
            torch.autograd.grad(made, inputs, list(map(torch.empty_like, made)), retain_graph=True, allow_unused=True)
    return int(counter.get_total_flops())


def _record(layers: list[_Layer], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """List the three products of a Linear or Conv layer that runs: a hook. A class made of one has none."""
    weight = module.weight
    if not isinstance(weight, Tensor) or not isinstance(output, Tensor) or not isinstance(inputs[0], Tensor):
        return
    count = getattr(module, "groups", 1)
    n, k = weight.shape[0] // count, weight[0].numel()
    m = output.numel() // weight.shape[0]
    back = Gemm(m, k, n, count) if inputs[0].requires_grad else None
    layers.append((Gemm(m, n, k, count), back, Gemm(k, n, m, count)))


def _kept(saved: list[Tensor], tensor: Tensor) -> Tensor:
    saved.append(tensor)
    return tensor


def _saved_bytes(saved: Sequence[Tensor], owned: Any) -> int:
    # Meta tensors have no address; the storage object behind them tells views of one tensor from other tensors.
    ignored = {p.untyped_storage()._cdata for p in owned}
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in saved}
    return sum(size for key, size in storages.items() if key not in ignored)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
