"""Any network as the stages of a pipeline: :func:`cut`."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from layerpipe2.cutting.program import Program, Reading, read
from layerpipe2.cutting.stages import Places, Stage, check_equal, emit
from layerpipe2.delays import Delays, aligned
from layerpipe2.errors import UserError, did_you_mean, integer, shown
from layerpipe2.planning import Costs, StageWork
from layerpipe2.planning.balance import balanced, merge
from layerpipe2.planning.profiling import profile

Works = tuple[StageWork, ...]
_SECONDS = 3.0
"""About how long units are timed."""
_SAMPLES = 4
"""How many samples of the example are traced and compared."""


class Stages(list[nn.Module]):
    """The stages of a network, input side first; as text, a table of what each holds and costs.

    Attributes:
        at: the submodules that stages begin at, from the second stage on: ``cut(..., at=stages.at)`` cuts there again.
    """

    def __init__(self, modules: Sequence[nn.Module], at: Sequence[str], example: Tensor, works: Works = ()) -> None:
        super().__init__(modules)
        self.at, self._example, self._works = list(at), example, works

    @property
    def works(self) -> Works:
        """Per stage, measured times and sizes of a mini-batch like the example.

        Raises:
            UserError: if a stage doesn't run on torch's meta device, which the sizes are found on.
        """
        self._works = self._works or _profile(self, self._example)
        return self._works

    def __str__(self) -> str:
        delays = Delays.layerpipe2(len(self))
        columns = [
            ["stage", *map(str, range(len(self)))],
            ["holds", *map(_holds, self)],
            ["parameters", *(f"{sum(p.numel() for p in stage.parameters()):,d}" for stage in self)],
            ["delay (2S)", *map(str, delays.per_stage)],
        ]
        with suppress(UserError):
            times = [work.total.flops for work in self.works]
            columns.append(["time", *(f"{seconds / (sum(times) or 1):.0%}" for seconds in times)])
            for title, strategy in (("MB, stash", "stash"), ("MB, average", "ema-span")):
                costs = _memory(Costs(self.works, delays, strategy))
                columns.append([title, *(f"{size / 1e6:.1f}" for size in costs)])
        return "\n".join(aligned(list(zip(*columns, strict=True)), left=2))


def cut(
    model: nn.Module | Sequence[nn.Module],
    example: Tensor,
    stages: int | None = None,
    *,
    at: Sequence[str] | None = None,
    untie: bool = False,
) -> Stages:
    """Take a network apart into the stages of a pipeline, each of which takes what the one before it returns.

    That is a tensor, or a tuple of several where more cross: skip connections, masks, noise that is used twice.

    The stages hold the network's own modules, parameters and buffers. Each begins at a submodule. Submodules that lie
    in one stage are called as they are; those that a cut goes through, and the network's own forward, are recorded.
    Before they are returned, the stages are compared with the network: outputs, gradients and buffers, in training and
    evaluation, for other numbers of samples and other lengths.

    Args:
        model: the network, or a flat list of modules that are called one after the other.
        example: one mini-batch of its input (B, ...), on its device.
        stages: into how many stages, as equally slow as measured times allow.
        at: instead, names of the submodules that stages begin at, from the second stage on.
        untie: whether the later of two stages that use one parameter gets a copy of its own.

    Raises:
        UserError: if the network can't be taken apart there, in one line with the line of its source.
    """
    network = _checked(model, example, stages, at)
    works = Works()
    if at is None and stages != 1:
        at, works = _balanced(network, example, integer(stages, "number of stages", 1))
    at = list(at or ())
    unknown = next((name for name in at if name not in dict(network.named_modules())), None)
    if unknown is not None:
        known = [name for name, _ in network.named_modules() if name]
        raise UserError(f"network has no submodule {shown(unknown)}; {did_you_mean(unknown, known)}")
    opened = _around(at)
    other = next((name for name in opened if network.get_submodule(name).training != network.training), None)
    if other is not None:
        raise UserError(
            f"submodule '{other}', which a cut goes through, is in another mode than the network; cut elsewhere"
        )
    reading = read(network, example[:_SAMPLES], opened)
    parts, copies = emit(network, reading, _checked_places(network, example, reading, at), untie=untie)
    check_equal(network, parts, copies, reading.examples)
    return Stages(parts, at, example, works)


def cut_finely(model: nn.Module, example: Tensor) -> Stages:
    """Cut a network into the smallest stages that each have something to train and get one tensor.

    Args:
        model, example: as of :func:`cut`. Parameters that several stages use are untied.

    Raises:
        UserError: as :func:`cut`.
    """
    network = _checked(model, example, 1, None)
    reading = read(network, example[:_SAMPLES])
    free = _free(reading, several=False)
    units, _ = emit(network, reading, list(free.values()), untie=True)
    at = [list(free)[start - 1] for start in _with_parameters(units)[1:]]
    return cut(network, example, at=at, untie=True) if at else cut(network, example, 1)


def _checked(model: Any, example: Any, stages: Any, at: Any) -> nn.Module:
    if isinstance(model, Sequence) and model and all(isinstance(unit, nn.Module) for unit in model):
        model = nn.Sequential(*model)
    if isinstance(model, nn.ModuleList):
        model = nn.Sequential(*model)
    if not isinstance(model, nn.Module):
        raise UserError(f"network is {shown(model)}; give a module, or a list of modules")
    if not isinstance(example, Tensor) or not example.dim() or not len(example):
        raise UserError(f"example is {shown(example)}; give a mini-batch (B, ...) of the one tensor that it takes")
    if (stages is None) == (at is None):
        raise UserError("give either stages=, how many, or at=, names of the submodules that stages begin at")
    if at is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "cut once in one process, and give at= the names that its stages.at has"
        raise UserError(f"each process would measure times of its own and cut elsewhere; {remedy}")
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise UserError("network is compiled, and its parts can't be called apart; give it as it was before")
    if at is not None and not (isinstance(at, list | tuple) and at and all(isinstance(name, str) for name in at)):
        raise UserError(f"at is {shown(at)}; give a list of names of submodules")
    return model


def _around(names: Sequence[str]) -> set[str]:
    """The submodules that cuts at these names go through."""
    return {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}


def _checked_places(network: nn.Module, example: Tensor, reading: Reading, at: Sequence[str]) -> list[Places]:
    places = []
    for name in at:
        found = _place(reading, name)
        if isinstance(found, str):
            raise UserError(f"no stage can begin at '{name}': {found}; {_remedy(network, example, name)}")
        places.append(found)
    if any(a[True] >= b[True] for a, b in pairwise(places)):
        raise UserError(f"at={shown(list(at))} is not in the order in which they are called")
    return places


def _place(reading: Reading, name: str) -> Places | str:
    """The step that a submodule begins with in each mode; or why no stage can begin there."""
    places = {}
    for mode, program in reading.programs.items():
        if len(program.entries.get(name, ())) != 1:
            return "it is not called, or several times"
        places[mode] = program.places().get(name, 0)
        why = _refused(program, places[mode])
        if why:
            return why
    return places


def _refused(program: Program, place: int) -> str:
    if program.is_first(place):
        return "nothing comes before" if place else "it computes without gradients"
    tensors = program.crossing(place).tensors
    if not tensors:
        return "nothing crosses"
    for node in tensors:
        value = node.meta["value"]
        if not isinstance(value, Tensor):
            return f"what crosses is a {type(value).__name__}"
        if program.changes(value, place):
            return f"{_made_by(node)} is changed in place there"
    if not any(node.meta["value"].requires_grad for node in tensors):
        return f"{' and '.join(map(_made_by, tensors))} has no gradient"
    lacks = program.crossing(place, given=tensors).lacks
    return f"a size would have to cross beside the tensors, from {lacks[0].meta['line']}" if lacks else ""


def _made_by(node: Node) -> str:
    if node.op == "placeholder":
        return "the input"
    if node.op == "call_module":
        return f"the output of '{str(node.target).partition('.')[2]}'"
    return f"that of {node.meta['line']}"


def _free(reading: Reading, *, several: bool = True) -> dict[str, Places]:
    """Outermost submodules at every place where a stage can begin, in the order in which they are called.

    Args:
        reading: of the network.
        several: whether more than one tensor may cross there.
    """
    found: dict[str, Places] = {}
    names = sorted(reading.programs[True].places().items(), key=lambda pair: (pair[1], pair[0].count(".")))
    for name, step in names:
        places = _place(reading, name)
        if isinstance(places, str) or step in [place[True] for place in found.values()]:
            continue
        if several or all(len(reading.programs[mode].crossing(place).tensors) == 1 for mode, place in places.items()):
            found[name] = places
    return found


def _remedy(network: nn.Module, example: Tensor, name: str) -> str:
    reading = read(network, example[:_SAMPLES])
    free = _free(reading)
    place = reading.programs[True].places().get(name, 0)
    near = sorted(sorted(free, key=lambda other: abs(free[other][True] - place))[:3], key=list(free).index)
    return f"one can begin at {', '.join(map(repr, near))}" if near else "one can begin nowhere"


def _balanced(network: nn.Module, example: Tensor, stages: int) -> tuple[list[str], Works]:
    reading = read(network, example[:_SAMPLES])
    for several in (False, True):  # a place where one tensor crosses costs least
        free = _free(reading, several=several)
        units, _ = emit(network, reading, list(free.values()), untie=True)
        starts = _with_parameters(units)
        if len(starts) >= stages:
            break
    else:
        raise UserError(f"network can't be cut into {stages} stages: {_why_so_few(reading, list(free), starts)}")
    found = balanced(merge(_profile(units, example), [*starts, len(units)]), stages)
    return [list(free)[starts[start] - 1] for start in found.starts[1:]], found.stages


def _with_parameters(units: Sequence[nn.Module]) -> list[int]:
    """First units of the smallest parts that each have something to train; 0 at least."""
    trains = [any(p.requires_grad for p in unit.parameters()) for unit in units]
    starts = [0]
    for number in range(1, len(units)):
        if any(trains[starts[-1] : number]) and any(trains[number:]):
            starts.append(number)
    return starts


def _why_so_few(reading: Reading, free: list[str], starts: list[int]) -> str:
    names = [free[start - 1] for start in starts[1:]]
    where = f"a stage can begin at {len(names)} submodules" + (f" ({shown(', '.join(names))})" if names else "")
    reasons = ((name, _place(reading, name)) for name in reading.programs[True].places())
    why = next(
        (f", but at '{name}' {why}" for name, why in reasons if isinstance(why, str) and "nothing comes" not in why), ""
    )
    closed = "".join(f"; {kind.__name__} stays whole: {why}" for kind, why in reading.closed.items())
    return f"{where}{why}{closed}; ask for at most {len(starts)}"


def _profile(modules: Sequence[nn.Module], example: Tensor) -> Works:
    start = time.perf_counter()
    try:
        with torch.no_grad():
            x = example
            for module in copy.deepcopy(list(modules)):
                x = module(x)
        seconds = time.perf_counter() - start
        return profile(modules, example, repeats=max(1, min(5, int(_SECONDS / (4 * seconds)))), warmup=1)
    except (UserError, RuntimeError) as error:
        remedy = "cut at submodules that you name, at="
        raise UserError(f"times can't be measured ({' '.join(str(error).split())}); {remedy}") from None


def _memory(costs: Costs) -> list[float]:
    kinds = costs.parameter_bytes, costs.activation_bytes, costs.history_bytes
    return [sum(parts) for parts in zip(*kinds, strict=True)]


def _holds(stage: nn.Module) -> str:
    assert isinstance(stage, Stage)
    names = stage.holds
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}" if names else "no submodule"
