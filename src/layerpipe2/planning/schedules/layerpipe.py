"""LayerPipe2 and LayerPipe: schedules from a placement by retiming. Every processor does its tasks once per round.

A result that goes to another processor is used one round later (one register on the link), a result that stays is
used in the same round. Longest paths from the input then give every task its offset: in round ``r`` it works on batch
``r - offset``. With whole stages, one per processor, F of stage k has the offset k and B has 2 (K - 1) - k: LayerPipe2,
delay = offset(W) - offset(F) = 2 (K - 1 - k).

LayerPipe (Unnikrishnan and Parhi 2021, arXiv 2108.06629) as its abstract describes it; the full text is not at hand.

*Intra-layer*: weight and activation gradient of a layer are separate tasks that may run on different processors.
*Inter-layer*: the activation gradient is cut into two halves (of the layer's input channels) that two consecutive
layers share. **Our own reading** of how that becomes a schedule: the tasks of all layers form one chain,

    F0 B0 | W0 || B2 | B1 | F | W || B2 | B1 | F | W || ...       (layer 0 has no input gradient to hand on)

and a processor takes a run of it; ``|`` and ``||`` are the places where it may be cut, where PipeDream has only ``||``.
Cutting beside B2 gives half of a layer's activation gradient to the layer below. The cuts are chosen as PipeDream's
(:func:`layerpipe2.planning.balance.chain_cuts`), and every byte that the finer cut sends is counted: gradients,
inputs for a weight gradient elsewhere, and updated weights to wherever they are read. A unit of several layers (a
residual block) is not cut into halves, since their parts would need each other's inner gradients.
"""

from collections.abc import Mapping
from itertools import pairwise

from layerpipe2.errors import UserError
from layerpipe2.planning.balance import Cut, chain_cuts
from layerpipe2.planning.costs import Costs, uniform_costs
from layerpipe2.planning.devices import Device, FlopDevice
from layerpipe2.planning.schedules.actions import Action, Kind, Schedule, Task, edges
from layerpipe2.planning.schedules.builders import check_counts, check_one_each
from layerpipe2.planning.schedules.simulator import task_seconds
from layerpipe2.planning.work import StageWork

_Item = tuple[tuple[Task, ...], Cut]
"""Tasks that are not cut apart, and what crosses the place after them."""


def layerpipe2(stages: int, processors: int, batches: int) -> Schedule:
    """Do a forward pass, an activation and a weight gradient of every stage in every tick; delays 2S."""
    check_one_each("layerpipe2", stages, processors, batches)
    kinds: tuple[Kind, ...] = ("F", "B", "W")
    home = {(kind, k): k for kind in kinds for k in range(stages)}
    return periodic("layerpipe2", home, stages, batches)


def layerpipe(
    stages: int, processors: int, batches: int, costs: Costs | None = None, device: Device | None = None
) -> Schedule:
    """Make LayerPipe's schedule: a stage per layer, and up to about four processors per layer.

    Args:
        stages: number of layers.
        processors: number of processors.
        batches: number of mini-batches, one update each.
        costs, device: for the placement, of the single layers; by default all passes of all layers take the same time.

    Raises:
        UserError: on counts out of range, or more processors than tasks.
    """
    check_counts("layerpipe", stages, processors, batches)
    costs, device = costs or uniform_costs(stages), device or FlopDevice(1.0)
    if len(costs.stages) != stages:
        what = f"schedule 'layerpipe' has {stages} stages, but the costs are of {len(costs.stages)}"
        raise UserError(f"{what}; match them")
    items = [item for k, stage in enumerate(costs.stages) for item in _items(k, stage)]
    if processors > len(items):
        few = f"{processors} processors, but {stages} layers give only {len(items)} tasks; give at most {len(items)}"
        raise UserError(f"schedule 'layerpipe': {few} processors")
    loads = [sum(task_seconds(kind, costs.stages[k], device) for kind, k in tasks) for tasks, _ in items]
    starts = chain_cuts(loads, [cut for _, cut in items[:-1]], processors, device.link.occupation)
    home = {task: p for p, (a, b) in enumerate(pairwise(starts)) for tasks, _ in items[a:b] for task in tasks}
    compound = frozenset(k for k, stage in enumerate(costs.stages) if not stage.single_layer)
    return periodic("layerpipe", _joined(home), stages, batches, compound)


def _items(k: int, stage: StageWork) -> list[_Item]:
    came, went = stage.input_bytes, stage.output_bytes
    weights, saved = stage.parameter_bytes, stage.saved_bytes
    end: _Item = ((("W", k),), (went, went))
    # What crosses between F and W: the next layer's input and what W needs of F; back, the gradient and the update.
    needs = came if stage.single_layer else 2 * saved
    forward: Cut = (went + needs, went + weights)
    if k == 0:
        return [((("F", k), ("B", k)), forward), end]
    if not stage.single_layer:
        return [((("B", k),), (came + saved, saved + went + weights)), ((("F", k),), forward), end]
    second: _Item = ((("B2", k),), (came, went + came / 2 + weights / 2))
    return [second, ((("B1", k),), (came, went + weights)), ((("F", k),), forward), end]


def _joined(home: dict[Task, int]) -> dict[Task, int]:
    """Join two halves on one processor to one activation gradient."""
    joined = dict(home)
    for k in [k for kind, k in home if kind == "B1" and home["B2", k] == home["B1", k]]:
        joined["B", k] = joined.pop(("B1", k))
        del joined["B2", k]
    return joined


def periodic(
    name: str, home: Mapping[Task, int], stages: int, batches: int, compound: frozenset[int] = frozenset()
) -> Schedule:
    """Make the schedule of a placement (task -> processor); see the module's text."""
    order = _round_order(home)
    rounds = tuple(tuple(Action(*task, 0) for task in order if home[task] == p) for p in range(max(home.values()) + 1))
    once = Schedule(name, rounds, stages, 1, compound=compound)
    offset = offsets(once, order)
    # The update of batch j is done in round j + offset(W) and read one round later at the earliest; a task never reads
    # the update of its own batch.
    away = [task for task in order if task[0] != "W" and home[task] != home["W", task[1]]]
    lag = {task: max(1, 1 + offset["W", task[1]] - offset[task]) for task in away}
    rows = []
    for row in rounds:
        length = batches + max((offset[a.kind, a.stage] for a in row), default=0)
        shifted = (a._replace(batch=r - offset[a.kind, a.stage]) for r in range(length) for a in row)
        rows.append(tuple(action for action in shifted if 0 <= action.batch < batches))
    return Schedule(name, tuple(rows), stages, batches, compound=compound, weight_lag=lag)


def offsets(schedule: Schedule, order: list[Task]) -> dict[Task, int]:
    """Count rounds between the input of a batch and each task on it: the retiming values."""
    needs, home = edges(schedule), schedule.home
    found: dict[Task, int] = {}
    for task in order:
        arrivals = [found[edge.source] + (home[edge.source] != home[task]) for edge in needs[task]]
        found[task] = max(arrivals, default=0)
    return found


def _round_order(home: Mapping[Task, int]) -> list[Task]:
    """Order a round: F by stages, activation gradients back, weight gradients last, as gradients are sent early."""
    forward = sorted((t for t in home if t[0] == "F"), key=lambda t: t[1])
    activation = sorted((t for t in home if t[0] in ("B", "B1", "B2")), key=lambda t: (-t[1], t[0]))
    weight = sorted((t for t in home if t[0] == "W"), key=lambda t: -t[1])
    return [*forward, *activation, *weight]
