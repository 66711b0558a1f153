"""How a program ends: equal to the reference, or refused in one line."""

import logging
from collections import Counter
from collections.abc import Sequence

import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor

from layerpipe2 import UserError
from tests.programs.expected import by_reference, distance
from tests.programs.program import EVERY, Program, by_trainer, programs
from tests.programs.two_processes import TwoProcesses

TOLERANCE = 1e-10


def tried(processes: int, number: int, start: int | None = None, strategies: Sequence[str] = EVERY) -> Counter[str]:
    """How so many programs with these strategies end; always the same ones, or those of a seed.

    Raises:
        AssertionError: with the smallest program of its kind, on one that gives other numbers than the reference.
    """
    counts: Counter[str] = Counter()
    place = TwoProcesses()

    @settings(
        max_examples=number,
        derandomize=start is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(processes, strategies))
    def run(program: Program) -> None:
        counts[outcome(program, place)] += 1

    quiet = logging.getLogger("pytorch_lightning")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        (run if start is None else seed(start)(run))()
    finally:
        quiet.setLevel(level)
        place.end()
    return counts


def outcome(program: Program, place: TwoProcesses) -> str:
    """Whether it is "equal" or "refused"."""
    try:
        found = place.run(program) if program.processes > 1 else by_trainer(program)
    except UserError as error:
        if program.may_be_refused and len(str(error).splitlines()) == 1:
            return "refused"
        raise AssertionError(f"refused: {error}") from error
    expected, allowed = by_reference(program), TOLERANCE
    apart = distance(found, expected, program)
    if not apart <= allowed:  # a program at a kink or that diverges tells nothing
        allowed = 1000 * distance(by_reference(program, _rounded), expected, program)
    assert apart <= max(allowed, TOLERANCE), f"differs by {apart:.1e}"
    return "equal"


def _rounded(x: Tensor) -> Tensor:
    """Every second number a last bit larger, the others smaller: BatchNorm would undo a common factor."""
    if not x.is_floating_point():
        return x
    signs = 1 - 2 * (torch.arange(x.numel(), dtype=x.dtype) % 2)
    return x * (1 + 2.0**-52 * signs.reshape(x.shape))
