"""Stages as modules that hold the network's own; and the comparison with the network before anybody trains them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from layerpipe2.cutting.example import Example
from layerpipe2.cutting.program import Reading, unchanged
from layerpipe2.cutting.tracing import CutError, OtherSizeError, held_at, output_of, why
from layerpipe2.engine.packing import is_packed, pack, unpack
from layerpipe2.errors import UserError

Copies = Sequence[tuple[Tensor, Tensor]]
"""Parameters and buffers of the network with the copies of them that later stages hold."""
Places = dict[bool, int]
"""The step that a stage begins with, in training and evaluation."""
_ROUNDING = 200
"""Units of rounding of the largest value by which two results may differ: sums may be made in another order."""


class Stage(nn.Module):
    """A stage: the network's own modules, and the steps between them, which may differ by mode."""

    def __init__(self, graphs: dict[bool, fx.Graph], held: dict[str, Any], persistent: Callable[[str], bool]) -> None:
        super().__init__()
        for name, item in sorted(held.items(), key=lambda pair: pair[0].count(".")):
            module: nn.Module = self
            *path, last = name.split(".")
            for key in path:
                if key not in module._modules:
                    module.add_module(key, nn.Module())
                module = module.get_submodule(key)
            if isinstance(item, Tensor) and not isinstance(item, nn.Parameter):
                module.register_buffer(last, item, persistent=persistent(name))
            elif getattr(module, last, None) is not item:
                setattr(module, last, item)
        self._graphs = graphs
        self.holds = list(held)
        self._compile()

    def forward(self, x: Any) -> Any:
        """Compute the steps of the mode, from a tensor or a tuple of those that cross to the next such."""
        out: Tensor = self._functions[self.training](self, x)
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {name: item for name, item in vars(self).items() if name != "_functions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()

    def _compile(self) -> None:
        self._functions = {}
        for training, graph in self._graphs.items():
            code = graph.python_code("self")
            names = dict(code.globals)
            exec(code.src, names)
            self._functions[training] = names["forward"]


def emit(network: nn.Module, reading: Reading, places: Sequence[Places], *, untie: bool) -> tuple[list[Stage], Copies]:
    """The stages that begin at the places, and at the first step.

    Raises:
        UserError: if two stages use a parameter that trains, or a buffer that is changed.
    """
    programs = reading.programs
    bounds = [dict.fromkeys(programs, 0), *places, {mode: len(program.nodes) for mode, program in programs.items()}]
    crossing = {}
    for mode, program in programs.items():
        inner = (program.crossing(place[mode]).tensors for place in places)
        crossing[mode] = [[program.nodes[0]], *inner, program.nodes[-1].all_input_nodes]
    stages, copies, owners = list[Stage](), list[tuple[Tensor, Tensor]](), dict[int, int]()
    for k in range(len(places) + 1):
        graphs = {
            mode: program.graph(bounds[k][mode], bounds[k + 1][mode], *crossing[mode][k : k + 2])
            for mode, program in programs.items()
        }
        nodes = [node for graph in graphs.values() for node in graph.nodes if node.op in ("get_attr", "call_module")]
        held = {str(node.target): held_at(network, str(node.target)) for node in nodes}
        made = _copies(k, held, owners, reading, untie=untie)
        copies += [(tensor, made[id(tensor)]) for _, tensor in _tensors(held) if made[id(tensor)] is not tensor]
        stages.append(Stage(graphs, {name: _with(item, made) for name, item in held.items()}, _persistent(network)))
        stages[-1].training = network.training
    return stages, list({id(copied): (tensor, copied) for tensor, copied in copies}.values())


def _tensors(held: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, item in held.items():
        if isinstance(item, Tensor):
            yield name, item
        else:
            yield from item.named_parameters(name)
            yield from item.named_buffers(name)


def _copies(
    k: int, held: dict[str, Any], owners: dict[int, int], reading: Reading, *, untie: bool
) -> dict[int, Tensor]:
    """What stage ``k`` holds for each tensor: the tensor itself, or a copy if an earlier stage has it."""
    made: dict[int, Tensor] = {}
    for name, tensor in _tensors(held):
        first = owners.setdefault(tensor.data_ptr() or id(tensor), k)
        if first == k:
            made[id(tensor)] = tensor
        elif id(tensor) not in made:
            if tensor.requires_grad and not untie:
                remedy = "untie=True gives the later one a copy that trains by itself"
                raise UserError(f"parameter '{name}' is used by stages {first} and {k}; {remedy}")
            if reading.changes(tensor):
                raise UserError(
                    f"buffer '{name}' is used by stages {first} and {k}, and changed; cut elsewhere with at="
                )
            value = tensor.detach().clone()
            made[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    return made


def _with(item: Any, made: dict[int, Tensor]) -> Any:
    """A tensor or module with copies in the place of what other stages own."""
    if isinstance(item, Tensor):
        return made[id(item)]
    if all(made[id(tensor)] is tensor for _, tensor in _tensors({"": item})):
        return item
    return copy.deepcopy(item, dict(made))


def _persistent(network: nn.Module) -> Callable[[str], bool]:
    def is_persistent(name: str) -> bool:
        module, last = network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        return last in module._buffers and last not in module._non_persistent_buffers_set

    return is_persistent


def check_equal(network: nn.Module, stages: Sequence[nn.Module], copies: Copies, examples: Sequence[Example]) -> None:
    """Outputs, gradients and buffers of network and stages in both modes, with the same dropout.

    Args:
        network: left as it was.
        stages: hold the network's own modules.
        copies: of what later stages hold a copy.
        examples: the example and others of other sizes, of which the first must be accepted by the stages.

    Raises:
        UserError: naming what differs and for which input.
    """
    both = nn.ModuleList([network, *stages])
    modes = [(module, module.training) for module in both.modules()]
    try:
        for training in (True, False):
            for number, x in enumerate(examples):
                where = f"in {'training' if training else 'evaluation'}, for {x}"
                network.train(training)
                try:
                    whole = partial(output_of, network, x)
                    theirs = _results(both, [whole], network, (), x, number)
                except Exception as error:  # whatever a network raises
                    if number:
                        continue
                    raise CutError(f"network fails {where}: {why(error)}") from error
                for stage in stages:
                    stage.train(training)
                try:
                    ours = _results(both, stages, network, copies, x, number)
                except Exception as error:
                    if isinstance(error, OtherSizeError) and x.other_lengths(examples[0]):
                        continue
                    raise CutError(f"stages are not the network: they fail {where}: {why(error)}") from error
                _compare(theirs, ours, where)
    finally:
        for module, mode in modes:
            module.training = mode


Results = dict[str, Tensor | None]


def _results(
    both: nn.Module,
    stages: Sequence[Callable[[Any], Any]],
    network: nn.Module,
    copies: Copies,
    example: Example,
    seed: int,
) -> Results:
    """Output, gradients, and buffers afterwards, each stage for itself as in a pipeline."""
    with unchanged(both, example.device, seed), torch.set_grad_enabled(network.training or seed == 0):
        given = example.leaves()
        y = pack(stages[0](given.of_each(torch.clone).value))
        passes = [(given.tensors[0], y)]
        for stage in stages[1:]:
            y = y.detach().requires_grad_(y.is_floating_point())
            passes.append((y, pack(stage(unpack(y.clone()) if is_packed(y) else y))))
            y = passes[-1][1]
        weights = torch.linspace(-1, 2, y.numel(), device=y.device).cos().to(y.dtype).reshape(y.shape)
        gradient: Tensor | None = weights
        for x, out in reversed(passes):
            if gradient is not None and out.requires_grad:
                out.backward(gradient)  # type: ignore[no-untyped-call]
            gradient = x.grad
        found: Results = {"the output": y.detach()}
        for i, x in enumerate(given.tensors):
            found[f"the gradient of {example.name(i)}"] = x.grad
        copied = {id(copy): original for original, copy in copies}
        gradients: dict[int, Tensor | None] = {}
        for tensor in [*network.parameters(), *(copy for _, copy in copies)]:
            own = copied.get(id(tensor), tensor)
            before = gradients.get(id(own))
            gradients[id(own)] = tensor.grad if before is None or tensor.grad is None else before + tensor.grad
        for name, parameter in network.named_parameters():
            found[f"the gradient of '{name}'"] = gradients[id(parameter)]
        for name, buffer in network.named_buffers():
            found[f"buffer '{name}'"] = buffer.clone()
        return found


def _compare(theirs: Results, ours: Results, where: str) -> None:
    for what, expected in theirs.items():
        worst = _difference(expected, ours[what])
        if worst:
            remedy = "cut elsewhere with at=, or give the network's parts as a list of modules"
            raise UserError(f"stages are not the network: {what} differs {where} ({worst}); {remedy}")


def _difference(theirs: Tensor | None, ours: Tensor | None) -> str:
    """How two results differ; empty if they don't. No gradient is the same as one of zeros."""
    if theirs is None or ours is None:
        rest = ours if theirs is None else theirs
        return "there is none" if rest is not None and bool(rest.any()) else ""
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return f"{list(ours.shape)} {ours.dtype} instead of {list(theirs.shape)} {theirs.dtype}"
    if torch.equal(theirs, ours):
        return ""
    if not theirs.is_floating_point():
        return "other integers"
    allowed = _ROUNDING * torch.finfo(theirs.dtype).eps * float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
    close = torch.allclose(theirs, ours, rtol=0, atol=allowed, equal_nan=True)
    return "" if close else f"by {float((theirs - ours).abs().max()):.2g}"
