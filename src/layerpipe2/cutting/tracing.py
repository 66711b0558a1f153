"""Trace a network as it runs: real tensors, of which a mode of torch's tells what makes them, and sizes as proxies."""

from __future__ import annotations

import linecache
import math
import operator
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from layerpipe2.cutting.example import Example
from layerpipe2.errors import UserError, did_you_mean, shown

ROOT = "network"
"""Name of the network within :class:`_Caller`."""
_PLAIN = {
    *("dim", "ndimension", "stride", "storage_offset", "element_size", "get_device", "data_ptr", "type", "result_type"),
    *("is_floating_point", "is_complex", "is_contiguous", "is_same_size", "__len__", "__hash__", "__repr__"),
    *("__format__", "can_cast", "promote_types"),
}
"""Functions that tell of a tensor what doesn't depend on its values."""
QUIET = (f"{Path(__file__).parent}{os.sep}", f"{Path(torch.__file__).parent}{os.sep}", "<")


class CutError(UserError):
    """A network, or a module of it, that can't be taken apart."""


class OtherSizeError(UserError):
    """An input whose size would have taken another way through the network."""


def require(value: Any, expected: Any, where: str) -> None:
    """Refuse an input for which the network would have gone another way."""
    if value != expected:
        raise OtherSizeError(f"stages were cut for inputs of another size or type ({where}); cut with such an example")


class _Number:
    """A size, or a number made of sizes, that knows the step that gives it; comparisons of it are noted."""

    node: fx.Node
    trace: Trace

    def __bool__(self) -> bool:
        return bool(self.trace.create_proxy("call_function", operator.ne, (self, 0), {}))

    def __int__(self) -> int:
        self.trace.require(self.node)
        return int(_plain(self))

    def __float__(self) -> float:
        self.trace.require(self.node)
        return float(_plain(self))

    def __ceil__(self) -> Any:
        return self.trace.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.trace.create_proxy("call_function", math.floor, (self,), {})

    def __round__(self, *digits: Any) -> Any:
        return self.trace.create_proxy("call_function", round, (self, *digits), {})


class _Integer(_Number, int):
    __hash__ = int.__hash__


class _Float(_Number, float):
    __hash__ = float.__hash__


def _number(node: fx.Node, trace: Trace) -> _Integer | _Float:
    value = node.meta["value"]
    made = _Integer(value) if isinstance(value, int) else _Float(value)
    made.node, made.trace = node, trace
    return made


def _operator(name: str, *, swapped: bool = False) -> Callable[[Any, Any], Any]:
    function = getattr(operator, name)

    def method(self: _Number, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        pair = (other, self) if swapped else (self, other)
        return self.trace.create_proxy("call_function", function, pair, {})

    return method


for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift", "and_", "or_", "xor"):
    setattr(_Number, f"__{_name.rstrip('_')}__", _operator(_name))
    setattr(_Number, f"__r{_name.rstrip('_')}__", _operator(_name, swapped=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(_Number, f"__{_name}__", _operator(_name))
_Number.__neg__ = lambda self: 0 - self  # type: ignore[operator]


class Trace(fx.Tracer):
    """One run of a network whose ``opened`` modules are traced; all others are called as they are.

    Python reads some sizes without asking (``range(size)``). That is found where it differs between the example and one
    of half the size, and not where it differs only far from there.

    Attributes:
        nodes: what was computed, in order; ``meta`` of each has its ``value``, the memory that it ``changes``, its
            ``line``, and whether it is ``random`` and a module that ``owns`` parameters or buffers.
        entries: per submodule, after which nodes it was called, and whether gradients were on.
        stack: names of the opened modules that run; after an error, those that it happened in.
    """

    def __init__(self, network: nn.Module, example: Example, opened: set[str], stack: list[str]) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.opened, self.example = {ROOT, *(f"{ROOT}.{name}" for name in opened)}, example
        self.entries: dict[str, list[tuple[fx.Node, bool]]] = {}
        self.stack = stack
        self._known: dict[int, fx.Node] = {}
        self._running, self._gradients = False, True
        self._autocast = torch.is_autocast_enabled(example.device.type)
        self._owned = {id(t): name for name, t in _tensors(network)}
        before = _states(network, opened)
        with torch.enable_grad(), _Mode(self), _without_shortcuts():
            self.graph = self.trace(_Caller(network, example))
        self.nodes = list(self.graph.nodes)
        _check_states(before, _states(network, opened))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say that a module is called as it is, unless it is opened."""
        return module_qualified_name not in self.opened

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note at which step a submodule is called, and call or open it."""
        if self._running:
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        short = name.removeprefix(ROOT).removeprefix(".")
        if short:
            last = next(iter(reversed(self.graph.nodes)))
            self.entries.setdefault(short, []).append((last, self._gradients))
        if self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        self.stack.append(short)
        out = super().call_module(m, forward, args, kwargs)
        self.stack.pop()
        return out

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Leave parameters as they are: the mode tells of their use."""
        return attr_val

    def create_arg(self, a: Any) -> Any:
        """Put the step that gives a tensor or number in its place."""
        if isinstance(a, Tensor):
            return self._node_of(a)
        if isinstance(a, _Number):
            return a.node
        try:
            return super().create_arg(tuple(a) if isinstance(a, torch.Size) else a)
        except NotImplementedError:
            remedy = "does a setting leave it out, as use_cache=False?"
            raise self._error(f"passes a {type(a).__name__} on, which is no tensor ({remedy})") from None

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """Compute a step for real and note it.

        Returns:
            What it gives, with numbers that come from sizes as proxies.
        """
        self._check_context(target)
        given = [item for item in atoms((args, kwargs)) if isinstance(item, Tensor)]
        module = self.root.get_submodule(target) if kind == "call_module" else nn.Module()
        with self._apart():
            versions = [(t, t._version) for t in (*given, *module.buffers())]
            state = self._generators()
            plain = _plain((args, kwargs))
            value = self.example.value if kind == "placeholder" else _call(module, kind, target, *plain)
            draws = not torch.equal(state, self._generators())
            changes = [storage(t) for t, version in versions if t._version != version]
        has_tensors = any(isinstance(item, Tensor) for item in atoms(value))
        if given and not has_tensors and kind != "call_module" and not changes:
            return self._metadata(target, args, kwargs, value)
        arguments = [self.create_arg(args), self.create_arg(kwargs)]
        node = self._note(kind, target, *arguments, *more, value=value, changes=changes, random=draws, **named)
        node.meta["owns"] = any(True for _ in (*module.parameters(), *module.buffers()))
        if isinstance(value, bool) and not given:
            self.require(node)
        return self._known_from_now(node, value)

    def require(self, node: fx.Node) -> None:
        """Make the stages refuse inputs for which a number is another one than now."""
        self._note("call_function", require, (node, _plain(node.meta["value"]), _line()), {})

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Note a function of torch's that opened code calls; run it alone if a module that is called as it is does."""
        if self._running:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__set__":
            raise self._error("sets an attribute of a tensor")
        if name == "__get__":
            return self.create_proxy("call_function", getattr, (args[0], func.__self__.__name__), {})
        if name == "__iter__":
            return iter(self.create_proxy("call_method", "unbind", args, {}))
        if func is torch._C._set_grad_enabled:
            self._gradients = args[0]
        elif not any(isinstance(item, Tensor) for item in atoms((args, kwargs))) and func not in _device_constructors():
            return func(*_plain(args), **_plain(kwargs))
        return self.create_proxy("call_function", func, args, kwargs)

    def _metadata(self, target: Any, args: Any, kwargs: Any, value: Any) -> Any:
        """What a function tells of a tensor that is none."""
        name = args[1] if target is getattr else getattr(target, "__name__", target)
        if isinstance(value, torch.Size):
            of = self._node_of(args[0])
            sizes = [self._note("call_method", "size", (of, d), {}, value=size) for d, size in enumerate(value)]
            return torch.Size([_number(size, self) for size in sizes])  # type: ignore[misc]
        if name in ("size", "numel", "nelement"):
            arguments = self.create_arg(args), self.create_arg(kwargs)
            return _number(self._note("call_method", name, *arguments, value=value), self)
        if name == "dtype":
            node = self._note("call_function", getattr, (self._node_of(args[0]), "dtype"), {}, value=value)
            self.require(node)
        if value is None or target is getattr or name in _PLAIN:
            return value
        raise self._error(f"reads the value of a tensor ({name})")

    def _known_from_now(self, node: fx.Node, value: Any) -> Any:
        if isinstance(value, Tensor):
            self._known[id(value)] = node
        elif is_number(value):
            return _number(node, self)
        elif isinstance(value, tuple | list | Mapping) or is_dataclass(value):
            items = {}
            for key, item, access in _items(value):
                if is_number(item) or any(isinstance(one, Tensor) for one in atoms(item)):
                    inner = self._note("call_function", access, (node, key), {}, value=item)
                    items[key] = self._known_from_now(inner, item)
                else:
                    items[key] = item
            if isinstance(value, tuple | list) and type(value) in (tuple, list):
                return type(value)(items.values())
            return items if type(value) is dict else value
        return value

    def _note(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, value: Any = None, **named: Any
    ) -> fx.Node:
        meta = {"value": value, "random": named.pop("random", False), "changes": named.pop("changes", [])}
        node = self.create_node(kind, target, args, kwargs, *more, **named)
        node.meta.update(meta)
        return node

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note a step with its line."""
        node = super().create_node(*args, **kwargs)
        node.meta.update(value=None, random=False, changes=[], owns=False, line=_line())
        return node

    def _node_of(self, tensor: Tensor) -> fx.Node:
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        if id(tensor) in self._owned:
            return self._note("get_attr", f"{ROOT}.{self._owned[id(tensor)]}", (), {}, value=tensor)
        raise self._error(
            "uses a tensor that is no parameter or buffer, and that no function of torch's has made in it"
        )

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Run functions of torch's without noting them."""
        before, self._running = self._running, True
        try:
            yield
        finally:
            self._running = before

    def _generators(self) -> Tensor:
        """States of torch's generators."""
        device = self.example.device
        on = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return torch.cat([torch.get_rng_state(), *on])

    def _check_context(self, target: Any) -> None:
        if target is torch._C._set_grad_enabled:
            return
        if torch.is_autocast_enabled(self.example.device.type) != self._autocast:
            raise self._error("computes under autocast")
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            raise self._error("computes under a checkpoint")
        if torch.is_grad_enabled() != self._gradients:
            raise self._error("computes in an autograd.Function or a checkpoint")

    @staticmethod
    def _error(why: str) -> CutError:
        return CutError(f"forward {why}, at {_line()}")


class _Mode(TorchFunctionMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._trace.function(func, args, kwargs or {})


@contextmanager
def _without_shortcuts() -> Iterator[None]:
    """Tell a forward that asks, as it does for ``torch.export``, to take no shortcut that depends on values.

    So a mask is used also if it masks nothing. Whether both ways give the same is compared with all else.
    """
    names = "_is_compiling_flag", "_is_exporting_flag"
    before = [getattr(torch.compiler, name) for name in names]
    try:
        for name in names:
            setattr(torch.compiler, name, True)
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(torch.compiler, name, value)


class _Caller(nn.Module):
    """Calls the network, with its hooks."""

    def __init__(self, network: nn.Module, example: Example) -> None:
        super().__init__()
        setattr(self, ROOT, network)
        self._example = example

    def forward(self, x: Any) -> Tensor:
        return output_of(getattr(self, ROOT), self._example, x)


def output_of(network: nn.Module, example: Example, value: Any) -> Tensor:
    """The output that counts, of a network that gets ``value`` in the place of the example's inputs.

    Raises:
        CutError: if it isn't one tensor.
    """
    found = dict(leaves(example.call(network, value)))
    if example.output is None and len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(name or "a tensor" for name in found) or "no tensor"
    if example.output is None:
        remedy = f", or name the one that counts, as output={shown(next(iter(found)))}" if len(found) > 1 else ""
        raise CutError(f"network returns {names}; give one that returns one tensor{remedy}")
    if example.output not in found:
        raise CutError(
            f"network returns {names}, and no {shown(example.output)}; {did_you_mean(example.output, found)}"
        )
    return found[example.output]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, each with the keys and attributes that lead to it."""
    if isinstance(value, Tensor):
        yield name, value
    for key, item, _ in _items(value):
        yield from leaves(item, f"{name}.{key}" if name else str(key))


def opens(module: nn.Module) -> bool:
    """Whether a module may be traced: one of torch's own is called as it is, apart from containers."""
    ours = isinstance(module, nn.Sequential) or not type(module).__module__.startswith("torch.")
    return ours and any(module.children()) and not parametrize.is_parametrized(module)


def storage(tensor: Tensor) -> int:
    """The memory that a tensor lies in."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def is_number(value: Any) -> bool:
    """Whether it is a number of those that sizes are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def atoms(value: Any) -> Iterator[Any]:
    """What arguments and results are made of."""
    items = _items(value)
    if isinstance(value, slice):
        items = [("", item, getattr) for item in (value.start, value.stop, value.step)]
    if not items:
        yield value
    for _, item, _ in items:
        yield from atoms(item)


def _items(value: Any) -> list[tuple[Any, Any, Any]]:
    """Key, item and the function that takes it, of what can have tensors within."""
    if isinstance(value, Mapping):
        return [(key, item, operator.getitem) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return [(i, item, operator.getitem) for i, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name), getattr) for one in fields(value)]
    return []


def _plain(value: Any) -> Any:
    """Arguments with ordinary numbers in the place of proxies."""
    if isinstance(value, _Number):
        return int.__int__(value) if isinstance(value, _Integer) else float.__float__(value)  # type: ignore[arg-type]
    if type(value) in (tuple, list, torch.Size):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return slice(*map(_plain, (value.start, value.stop, value.step))) if isinstance(value, slice) else value


def _call(module: nn.Module, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
    if kind == "call_function":
        return target(*args, **kwargs)
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    chance = random.getstate(), np.random.get_state()
    out = module(*args, **kwargs)
    random.setstate(chance[0])
    np.random.set_state(chance[1])
    return out


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are attributes."""
    for name, module in network.named_modules():
        held = {**vars(module), **module._buffers, **module._parameters}
        yield from ((f"{name}.{key}".strip("."), item) for key, item in held.items() if isinstance(item, Tensor))


def held_at(root: nn.Module, target: str) -> Any:
    """The submodule, parameter, buffer or other tensor of that name."""
    module, _, name = target.rpartition(".")
    return getattr(root.get_submodule(module), name)


def _states(network: nn.Module, opened: set[str]) -> dict[str, Any]:
    """Attributes of opened modules, by name, and how far Python's and NumPy's random numbers are."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        if name in opened or not name:
            own = {**vars(module), **module._buffers, **module._parameters}
            for key, item in own.items():
                copied = list(item.items() if isinstance(item, dict) else item) if _is_copied(key, item) else item
                found[f"{name}.{key}".strip(".")] = copied
    chance = np.random.get_state(legacy=False)
    found["random"] = [random.getstate(), chance["state"]["pos"], int(chance["state"]["key"][0]), chance["has_gauss"]]
    return found


def _check_states(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in {*before, *after}:
        old, new = before.get(name), after.get(name)
        if not _same(old, new):
            what = "draws random numbers of Python's or NumPy's" if name == "random" else f"changes attribute '{name}'"
            raise CutError(f"forward {what}")


def _is_copied(key: str, item: Any) -> bool:
    return isinstance(item, list | set | dict) and not key.startswith("_")


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list | tuple) and type(old) is type(new):
        return len(old) == len(new) and all(map(_same, old, new))
    return old is new or (isinstance(old, int | float | str) and type(old) is type(new) and old == new)


def _line() -> str:
    """The line of the network's source that runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(QUIET):
        frame = frame.f_back
    return "" if frame is None else line_of(frame.f_code.co_filename, frame.f_lineno)


def line_of(file: str, number: int) -> str:
    """A line of source, for messages."""
    return f"{file}:{number}: {linecache.getline(file, number).strip()}"


def why(error: BaseException) -> str:
    """An error in a network's forward, in one line with the last line of its source that it went through."""
    if isinstance(error, CutError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(QUIET)]
    where = f", at {line_of(frames[-1].filename, frames[-1].lineno or 0)}" if frames else ""
    return f"{' '.join(str(error).split())[:200]}{where}"
