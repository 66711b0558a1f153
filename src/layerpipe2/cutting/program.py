"""A traced network as a list of steps: which tensors cross at a place, and the steps between two places as a graph."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._device import _device_constructors

from layerpipe2.cutting.example import Example
from layerpipe2.cutting.tracing import (
    ROOT,
    CutError,
    Trace,
    atoms,
    is_number,
    opens,
    require,
    storage,
    why,
)
from layerpipe2.errors import UserError

Sizes = tuple[tuple[int, int, int | tuple[int, int]], ...]
"""Input, dimension, and the size that it must have, or the input and dimension whose size it must have."""


def require_sizes(x: Any, names: tuple[str, ...], sizes: Sizes) -> None:
    """Refuse inputs whose size differs where the network was not seen with another one.

    Args:
        x: the input, or a tuple of several.
        names: of several.
        sizes: that are required.
    """
    if names and not (isinstance(x, tuple | list) and len(x) == len(names)):
        raise UserError(
            f"the first stage gets a {type(x).__name__}; give it a tuple of {', '.join(names)}, as a PipelinedModule "
            "does whose inputs= names them"
        )
    given = x if names else (x,)
    for i, d, wanted in sizes:
        shape, size = given[i].shape, wanted
        if isinstance(wanted, tuple):
            size = given[wanted[0]].shape[wanted[1]]
        require(shape[d] if d < len(shape) else None, size, f"{size} in dimension {d}, not {list(shape)}")


@dataclass(frozen=True)
class OfCrossing:
    """A size of a tensor that crosses, along a dimension, or its type."""

    tensor: fx.Node
    dim: int | None

    def step(self, graph: fx.Graph, x: fx.Node) -> fx.Node:
        """The step that reads it of ``x``."""
        return (
            graph.call_function(getattr, (x, "dtype")) if self.dim is None else graph.call_method("size", (x, self.dim))
        )


@dataclass(frozen=True)
class Crossing:
    """What some steps need.

    Attributes:
        tensors: of the steps before, those that must cross.
        steps: to compute, in order: of those before, the ones that are computed once more.
        lacks: sizes of tensors before that no crossing tensor has.
    """

    tensors: list[fx.Node]
    steps: list[fx.Node]
    lacks: list[fx.Node]


class Program:
    """The steps of a network in one mode.

    Args:
        trace: of the example.
        others: traces of other sizes with the same steps.
        required: sizes of the inputs that must stay, or be the same.
    """

    def __init__(self, trace: Trace, others: Sequence[Trace], required: Sizes) -> None:
        self.nodes, self.entries, self._required = trace.nodes, trace.entries, required
        example = trace.example
        self._device = example.device
        self._inputs = () if example.alone else tuple(map(example.name, range(len(example.tensors))))
        self._at = {node: i for i, node in enumerate(self.nodes)}
        runs = zip(trace.nodes, *(other.nodes for other in others), strict=True)
        self._values = {nodes[0]: [node.meta["value"] for node in nodes] for nodes in runs}
        self._changing: dict[int, list[fx.Node]] = {}
        for node in self.nodes:
            for place in node.meta["changes"]:
                self._changing.setdefault(place, []).append(node)
        self._again: set[fx.Node] = set()
        for node in self.nodes:
            if self._is_repeatable(node):
                self._again.add(node)

    def changes(self, tensor: Tensor, start: int = 0) -> bool:
        """Whether a step from ``start`` on writes in the memory of a tensor."""
        return any(self._at[node] >= start for node in self._changing.get(storage(tensor), ()))

    def places(self) -> dict[str, int]:
        """Submodule -> the step it begins with, in order, of those that are called once, with gradients on."""
        once = {name: met[0] for name, met in self.entries.items() if len(met) == 1}
        return {name: self._at[node] + 1 for name, (node, gradients) in once.items() if gradients}

    def is_first(self, place: int) -> bool:
        """Whether nothing that depends on the input is computed before a place."""
        begin = 1 + len(self._inputs)
        return all(self._is_free(node) or not self._places(node) for node in self.nodes[begin:place])

    def name(self, node: fx.Node) -> str:
        """What the result of a step is called in messages."""
        if self._at[node] <= len(self._inputs):
            return (*self._inputs, "the input")[self._at[node] - 1]
        if node.op == "call_module":
            return f"the output of '{str(node.target).partition('.')[2]}'"
        return f"that of {node.meta['line']}"

    def crossing(self, start: int, end: int | None = None, given: Sequence[fx.Node] = ()) -> Crossing:
        """What the steps from ``start`` to ``end`` need; ``given`` are the tensors that cross."""
        last = len(self.nodes) if end is None else end
        todo = [node for node in self.nodes[start:last] if not self._is_free(node) and node.op != "placeholder"]
        needed, tensors, lacks = set[fx.Node](), set[fx.Node](), list[fx.Node]()
        while todo:
            node = todo.pop()
            if node in needed or node in tensors:
                continue
            if (self._at[node] < start and not self._is_free(node)) or node.op == "placeholder":
                tensors.add(node)
                continue
            needed.add(node)
            if self._stands_in(node, start, given):
                lacks += [node] * (self._stand_in(node, given) is None)
                continue
            todo += node.all_input_nodes
            for place in self._places(node) if node in self._again else ():
                todo += [other for other in self._changing.get(place, ()) if self._at[other] < last]
        first, steps = (sorted(found, key=self._at.__getitem__) for found in (tensors, needed))
        return Crossing(first, steps, lacks)

    def graph(self, start: int, end: int, given: Sequence[fx.Node], results: Sequence[fx.Node]) -> fx.Graph:
        """The steps from ``start`` to ``end``, as a function of what crosses into them: a tensor, or a tuple."""
        graph = fx.Graph()
        x = graph.placeholder("x")
        several = enumerate(given) if len(given) > 1 else ()
        made = dict.fromkeys(given, x) | {node: graph.call_function(operator.getitem, (x, i)) for i, node in several}
        x = made[given[0]]
        outer = graph.call_function(torch.is_grad_enabled)
        if start == 0 and (self._inputs or self._required):
            graph.call_function(require_sizes, (x, self._inputs, self._required))
        if start == 0 and self._inputs:
            x = graph.call_function(operator.getitem, (x, 0))

        def new(item: Any) -> Any:
            if isinstance(item, fx.Node):
                return made[item]
            if isinstance(item, torch.device) and item == self._device:
                return graph.call_function(getattr, (x, "device"))
            return item.step(graph, made[item.tensor]) if isinstance(item, OfCrossing) else item

        for node in self.crossing(start, end, given).steps:
            if node.op == "output":
                continue
            if self._stands_in(node, start, given):
                made[node] = new(self._stand_in(node, given))
                continue
            target = node.target.removeprefix(f"{ROOT}.") if isinstance(node.target, str) else node.target
            where = {"device": self._device} if node.target in _device_constructors() else {}
            args, kwargs = map_aggregate((node.args, {**where, **node.kwargs}), new)
            if node.target is torch._C._set_grad_enabled:
                args = (args[0] and outer,)
            made[node] = graph.create_node(node.op, target, args, kwargs)
        found = tuple(made[node] for node in results)
        graph.output(found[0] if len(found) == 1 else found)
        return graph

    def _is_free(self, node: fx.Node) -> bool:
        """Whether a step is computed wherever its result is needed."""
        value = node.meta["value"]
        return node.op == "get_attr" or node in self._again or is_number(value) or isinstance(value, torch.dtype)

    def _is_repeatable(self, node: fx.Node) -> bool:
        """Whether tensors that a step gives are the same wherever they are computed: made of sizes and constants."""
        tensors = [item for item in atoms(node.meta["value"]) if isinstance(item, Tensor)]
        if not node.op.startswith("call") or node.meta["random"] or not (tensors or node.meta["changes"]):
            return False
        if node.op == "call_module" and (node.meta["changes"] or node.meta["owns"]):
            return False
        for source in node.all_input_nodes:
            value = source.meta["value"]
            constant = source.op == "get_attr" and isinstance(value, Tensor) and not value.requires_grad
            constant = constant and not self.changes(value)
            if not (constant or source in self._again or is_number(value)):
                return False
        return not any(item.requires_grad for item in tensors)

    @staticmethod
    def _places(node: fx.Node) -> list[int]:
        return [storage(item) for item in atoms(node.meta["value"]) if isinstance(item, Tensor)]

    def _stands_in(self, node: fx.Node, start: int, given: Sequence[fx.Node]) -> bool:
        """Whether a step reads a size or the type of a tensor that is not there."""
        value = node.meta["value"]
        if not (isinstance(value, torch.dtype) or (node.op == "call_method" and is_number(value))):
            return False
        source = node.all_input_nodes[0]
        return source not in given and not self._is_free(source) and self._at[source] < start

    def _stand_in(self, node: fx.Node, given: Sequence[fx.Node]) -> Any:
        """The same value from sizes of what crosses; None if there is none that was the same for all examples."""
        values = self._values[node]
        if isinstance(values[0], torch.dtype):
            return next((OfCrossing(one, None) for one in given if one.meta["value"].dtype == values[0]), None)
        if all(value == values[0] for value in values):
            return values[0]
        for one in given:
            for d, sizes in enumerate(zip(*(value.shape for value in self._values[one]), strict=True)):
                if sizes == tuple(values):
                    return OfCrossing(one, d)
        return None


@dataclass(frozen=True)
class Reading:
    """A network as read.

    Attributes:
        programs: in training and evaluation.
        examples: the example, and one whose sizes all differ where the steps fit other sizes.
        closed: why modules are called as they are, by their type.
    """

    programs: dict[bool, Program]
    examples: list[Example]
    closed: dict[type, str]

    def changes(self, tensor: Tensor) -> bool:
        """Whether the network writes in the memory of a tensor."""
        return any(program.changes(tensor) for program in self.programs.values())


def read(network: nn.Module, example: Example, opened: set[str] | None = None) -> Reading:
    """Trace a network in both modes, with examples of several sizes.

    Args:
        network: left as it was.
        example: one mini-batch.
        opened: submodules that must be taken apart; without them, all that can be.

    Raises:
        CutError: in one line with the place in the network's source.
    """
    modules = dict(network.named_modules())
    wanted = {name for name in modules if name and opens(modules[name])} if opened is None else opened
    closed: dict[type, str] = {}
    while True:
        stack = [""]
        try:
            base = _both(network, example, wanted, stack)
            break
        except Exception as error:  # whatever a forward raises
            name, reason = stack[-1], why(error)
            if opened is not None or not name:
                inner = f"submodule '{name}'" if name else "network"
                remedy = "change that line, or give the network's parts as a list of modules"
                raise CutError(f"{inner} can't be taken apart: {reason}; {remedy}") from error
            closed[type(modules[name])] = reason
            wanted = {other for other in wanted if type(modules[other]) is not type(modules[name])}
    other, others, required = example, list[dict[bool, Trace]](), list[tuple[int, int, int | tuple[int, int]]]()
    for axis in example.axes():
        found = _followed(network, base, wanted, example.with_other_sizes(axis))
        if isinstance(found, dict):
            others.append(found)
            other = other.resized(axis, found[True].example.size(axis))
            required += [(i, d, axis[0]) for i, d in axis[1:]]
        elif axis[0][1] == 0:
            raise CutError(f"network takes other steps for another number of samples{found}")
        else:
            required += [(i, d, example.size(axis)) for i, d in axis]
    programs = {mode: Program(base[mode], [other[mode] for other in others], tuple(required)) for mode in base}
    return Reading(programs, [example, other], closed)


def _followed(
    network: nn.Module, base: dict[bool, Trace], opened: set[str], examples: Iterator[Example]
) -> dict[bool, Trace] | str:
    """Traces of the first example that the network takes; if their steps are others, the line where they differ."""
    for x in examples:
        with suppress(Exception):  # a size that the network refuses
            traces = _both(network, x, opened, [""])
            lines = [line for mode in base if (line := _difference(base[mode], traces[mode]))]
            return f", at {lines[0]}" if lines else traces
    return ", or refuses it"


def _both(network: nn.Module, x: Example, opened: set[str], stack: list[str]) -> dict[bool, Trace]:
    traces = {}
    modes = [(module, module.training) for module in network.modules()]
    try:
        for training in (True, False):
            network.train(training)
            with unchanged(network, x.device):
                given = x.leaves().of_each(torch.clone)
                traces[training] = Trace(network, given, opened, stack)
    finally:
        for module, mode in modes:
            module.training = mode
    return traces


def _difference(one: Trace, other: Trace) -> str:
    """The line at which two traces begin to differ."""
    for a, b in zip_longest(one.nodes, other.nodes):
        if a is None or b is None or _written(a) != _written(b):
            return str((a or b).meta["line"])
    return ""


def _written(node: fx.Node) -> tuple[str, ...]:
    return node.op, str(node.target), str(node.args), str(node.kwargs)


@contextmanager
def unchanged(modules: nn.Module, device: torch.device, seed: int = 0) -> Iterator[None]:
    """Run the same random numbers within, and leave modules, gradients and random numbers as they were."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in modules.modules()]
    values = [(buffer, buffer.clone()) for buffer in modules.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in modules.parameters()]
    chance = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            random.setstate(chance[0])
            np.random.set_state(chance[1])
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, attributes, buffers in kept:
                vars(module).clear()
                vars(module).update(attributes)
                module._buffers.clear()
                module._buffers.update(buffers)
            with torch.no_grad():
                for buffer, value in values:
                    buffer.copy_(value)
