"""Any network as the stages of a pipeline: :func:`cut`."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.cutting.example import Example
from layerpipe2.cutting.program import Program, Reading, read
from layerpipe2.cutting.stages import Places, Stage, check_equal, emit
from layerpipe2.delays import Delays, aligned
from layerpipe2.engine.packing import pack
from layerpipe2.errors import UserError, did_you_mean, integer, shown
from layerpipe2.planning import Costs, StageWork
from layerpipe2.planning.balance import balanced, merge
from layerpipe2.planning.profiling import profile

Works = tuple[StageWork, ...]
_SECONDS = 3.0
"""About how long units are timed."""
_SLOWER = 1.25
"""How much slower the slowest stage may be, for places where fewer tensors cross."""
_SAMPLES = 4
"""How many samples of the example are traced and compared."""


class Stages(list[nn.Module]):
    """The stages of a network, input side first; as text, a table of what each holds and costs.

    Attributes:
        at: the submodules that stages begin at, from the second stage on: ``cut(..., at=stages.at)`` cuts there again.
    """

    def __init__(self, modules: Sequence[nn.Module], at: Sequence[str], example: Example, works: Works = ()) -> None:
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
    example: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    stages: int | None = None,
    *,
    at: Sequence[str] | None = None,
    untie: bool = False,
    output: str | None = None,
) -> Stages:
    """Take a network apart into the stages of a pipeline, each of which takes what the one before it returns.

    That is a tensor, or a tuple of several where more cross: skip connections, masks, noise that is used twice.

    The stages hold the network's own modules, parameters and buffers. Each begins at a submodule. Submodules that lie
    in one stage are called as they are; those that a cut goes through, and the network's own forward, are recorded.
    Before they are returned, the stages are compared with the network: outputs, gradients and buffers, in training and
    evaluation, for other numbers of samples and other lengths.

    Args:
        model: the network, or a flat list of modules that are called one after the other.
        example: one mini-batch of its input (B, ...), on its device. Several inputs: a tuple in the order of the
            network's forward, or a mapping of its arguments; the first stage takes a tuple of them in that order.
        stages: into how many stages, as equally slow as measured times allow.
        at: instead, names of the submodules that stages begin at, from the second stage on.
        untie: whether the later of two stages that use one parameter gets a copy of its own.
        output: which one of several outputs counts, as ``"logits"``; the others are left out.

    Raises:
        UserError: if the network can't be taken apart there, in one line with the line of its source.
    """
    network = _checked(model, stages, at)
    inputs = Example.of(network, example, output)
    few = inputs.of_each(lambda x: x[:_SAMPLES])
    works = Works()
    if at is None and stages != 1:
        at, works = _balanced(network, inputs, few, integer(stages, "number of stages", 1))
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
    reading = read(network, few, opened)
    parts, copies = emit(network, reading, _checked_places(network, few, reading, at), untie=untie)
    check_equal(network, parts, copies, reading.examples)
    return Stages(parts, at, inputs, works)


def cut_finely(model: nn.Module, example: Tensor) -> Stages:
    """Cut a network into the smallest stages that each have something to train and get one tensor with a gradient.

    Args:
        model, example: as of :func:`cut`. Parameters that several stages use are untied.

    Raises:
        UserError: as :func:`cut`.
    """
    network = _checked(model, 1, None)
    reading = read(network, Example.of(network, example, None).of_each(lambda x: x[:_SAMPLES]))
    free = _free(reading)
    units, _ = emit(network, reading, list(free.values()), untie=True)
    narrow = [True, *(_width(reading, places) == 1 for places in free.values())]
    at = [list(free)[start - 1] for start in _with_parameters(units, narrow)[1:]]
    return cut(network, example, at=at, untie=True) if at else cut(network, example, 1)


def _checked(model: Any, stages: Any, at: Any) -> nn.Module:
    if isinstance(model, Sequence) and model and all(isinstance(unit, nn.Module) for unit in model):
        model = nn.Sequential(*model)
    if isinstance(model, nn.ModuleList):
        model = nn.Sequential(*model)
    if not isinstance(model, nn.Module):
        raise UserError(f"network is {shown(model)}; give a module, or a list of modules")
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


def _checked_places(network: nn.Module, example: Example, reading: Reading, at: Sequence[str]) -> list[Places]:
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
            return f"{program.name(node)} is changed in place there"
    if not any(node.meta["value"].requires_grad for node in tensors):
        return f"{' and '.join(map(program.name, tensors))} has no gradient"
    lacks = program.crossing(place, given=tensors).lacks
    return f"a size would have to cross beside the tensors, from {lacks[0].meta['line']}" if lacks else ""


def _free(reading: Reading) -> dict[str, Places]:
    """Outermost submodules at every place where a stage can begin, in the order in which they are called."""
    found: dict[str, Places] = {}
    names = sorted(reading.programs[True].places().items(), key=lambda pair: (pair[1], pair[0].count(".")))
    for name, step in names:
        places = _place(reading, name)
        if not isinstance(places, str) and step not in [place[True] for place in found.values()]:
            found[name] = places
    return found


def _width(reading: Reading, places: Places) -> int:
    """How many tensors with a gradient cross: masks and the like cost little."""
    programs = reading.programs
    crossing = (programs[mode].crossing(place).tensors for mode, place in places.items())
    return max(sum(bool(node.meta["value"].requires_grad) for node in tensors) for tensors in crossing)


def _remedy(network: nn.Module, example: Example, name: str) -> str:
    reading = read(network, example)
    free = _free(reading)
    place = reading.programs[True].places().get(name, 0)
    near = sorted(sorted(free, key=lambda other: abs(free[other][True] - place))[:3], key=list(free).index)
    return f"one can begin at {', '.join(map(repr, near))}" if near else "one can begin nowhere"


def _balanced(network: nn.Module, example: Example, few: Example, stages: int) -> tuple[list[str], Works]:
    reading = read(network, few)
    free = _free(reading)
    units, _ = emit(network, reading, list(free.values()), untie=True)
    widths = [0, *(_width(reading, places) for places in free.values())]
    starts = [_with_parameters(units, [width <= most for width in widths]) for most in sorted({*widths})]
    if len(starts[-1]) < stages:
        raise UserError(f"network can't be cut into {stages} stages: {_why_so_few(reading, list(free), starts[-1])}")
    works = _profile(units, example)
    enough = [found for found in starts if len(found) >= stages]
    cuts = [balanced(merge(works, [*found, len(units)]), stages) for found in enough]
    best = min(max(cut.seconds) for cut in cuts)
    found, cut = next(pair for pair in zip(enough, cuts, strict=True) if max(pair[1].seconds) <= _SLOWER * best)
    return [list(free)[found[start] - 1] for start in cut.starts[1:]], cut.stages


def _with_parameters(units: Sequence[nn.Module], open_: Sequence[bool]) -> list[int]:
    """First units, of those that are open, of the smallest parts that each have something to train; 0 at least."""
    trains = [any(p.requires_grad for p in unit.parameters()) for unit in units]
    starts = [0]
    for number in range(1, len(units)):
        if open_[number] and any(trains[starts[-1] : number]) and any(trains[number:]):
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


def _profile(modules: Sequence[nn.Module], example: Example) -> Works:
    start = time.perf_counter()
    try:
        with torch.no_grad():
            x = example.value
            for module in copy.deepcopy(list(modules)):
                x = module(x)
        seconds = time.perf_counter() - start
        return profile(modules, pack(example.value), repeats=max(1, min(5, int(_SECONDS / (4 * seconds)))), warmup=1)
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
