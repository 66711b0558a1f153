"""From a flat list of units to the stages of a pipeline."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from layerpipe2.errors import UserError, integer, shown


def partition(units: Sequence[nn.Module], group_size: int) -> list[nn.Sequential]:
    """Group consecutive units into stages of ``group_size`` units, from the input side.

    ``len(units)`` need not be a multiple of ``group_size``: the last stage takes what is left. ``group_size=1``
    pipelines at every unit, ``group_size=len(units)`` is ordinary sequential training (one stage).

    Args:
        units: the network as a flat list; calling them one after the other is the network.
        group_size: units per stage, from 1 to ``len(units)``.

    Returns:
        The stages, input side first. The units are used as they are, not copied.

    Raises:
        UserError: if there are no units, one isn't a module, or ``group_size`` is out of range.
    """
    _check_units(units)
    integer(group_size, f"group size for {len(units)} units", 1, len(units))
    return [nn.Sequential(*units[i : i + group_size]) for i in range(0, len(units), group_size)]


def partition_at(units: Sequence[nn.Module], starts: Sequence[int]) -> list[nn.Sequential]:
    """Cut the list of units where you say, for example where ``layerpipe2.planning.balance`` found them equally slow.

    Args:
        units: the network as a flat list; calling them one after the other is the network.
        starts: index of the first unit of every stage, from 0 upwards: ``[0, 3]`` makes two stages, units 0 to 2
            and the rest.

    Returns:
        The stages, input side first. The units are used as they are, not copied.

    Raises:
        UserError: if there are no units, one isn't a module, or the starts do not rise from 0 to at most the last unit.
    """
    _check_units(units)
    ends = [*starts, len(units)] if isinstance(starts, Sequence) else []
    integers = all(type(end) is int for end in ends)
    if len(ends) < 2 or not integers or ends[0] != 0 or any(a >= b for a, b in pairwise(ends)):
        raise UserError(
            f"stage starts {shown(starts)} do not cut {len(units)} units; "
            f"give rising integers from 0 to at most {len(units) - 1}"
        )
    return [nn.Sequential(*units[a:b]) for a, b in pairwise(ends)]


def _check_units(units: Sequence[nn.Module]) -> None:
    if not isinstance(units, Sequence | nn.Sequential | nn.ModuleList):
        raise UserError(f"network is {shown(units)}; give a list of modules")
    if not units:
        raise UserError("network has no units; give a list of at least one module")
    for number, unit in enumerate(units):
        if not isinstance(unit, nn.Module):
            raise UserError(f"unit {number} of the network is {shown(unit)}; give a module")


def check_stages(stages: Sequence[nn.Module]) -> None:
    """Refuse what a pipeline cannot hold: no stages, or one parameter or buffer owned by two stages.

    A parameter that two stages share would get two gradients with different delays per mini-batch, a shared buffer
    (running statistics) would be moved by two mini-batches at one time.

    Raises:
        UserError: naming the stages and the parameter or buffer.
    """
    if not stages:
        raise UserError("pipeline has no stages; give at least one module")
    owner: dict[int, tuple[int, str]] = {}
    for k, stage in enumerate(stages):
        for kind, named in (("parameter", stage.named_parameters()), ("buffer", stage.named_buffers())):
            for name, tensor in named:
                first = owner.setdefault(id(tensor), (k, name))
                if first[0] != k:
                    raise UserError(
                        f"{kind} '{name}' of stage {k} is also '{first[1]}' of stage {first[0]}; a stage must own what "
                        "it holds: put the units that share it into one stage, or untie them"
                    )
