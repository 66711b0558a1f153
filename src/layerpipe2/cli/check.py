"""``layerpipe2 check``: does this machine train as the definition says?"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch

from layerpipe2.checks import reference, trainings
from layerpipe2.checks.reference import Trace
from layerpipe2.checks.trainings import CPU, DELAYS, SINGLE, STRATEGIES, batches, network, simulated
from layerpipe2.engine.device import device_name
from layerpipe2.errors import UserError, shown
from layerpipe2.versions import versions

LIMIT_S = 120.0
_LAUNCH_S = 90.0  # most that two processes may take
ROUNDING = {torch.float64: 1e-12, SINGLE: 1e-4, torch.bfloat16: 1e-3}
"""Largest relative difference that is rounding. A delay that is wrong by one makes 0.1, another strategy 0.05."""


class Verdict(NamedTuple):
    """What stands behind a check's name."""

    kind: Literal["equal", "equal to rounding", "differs", "failed", "not here"]
    detail: str = ""


Work = Callable[[float], Verdict]
"""A check; it is told how many seconds are left."""


def run(options: argparse.Namespace) -> None:
    """Run the checks one after the other, with a line for each as soon as it is known.

    Raises:
        UserError: if no check has such a name.
        SystemExit: with code 1 if something differs, or failed.
    """
    checks = dict(_checks())
    chosen = {name: work for name, work in checks.items() if options.only is None or options.only in name}
    if not chosen:
        raise UserError(f"--only is {shown(options.only)}, which is in no check's name; known: {', '.join(checks)}")
    print(_machine(), flush=True)
    trainings.repeatable_arithmetic()
    end, width, kinds = time.monotonic() + LIMIT_S, max(map(len, chosen)), Counter[str]()
    for name, work in chosen.items():
        kind, detail = _guarded(work, end - time.monotonic())
        print(f"{name:{width}}  {kind}{detail}", flush=True)
        kinds[kind] += 1
    print(", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if kinds["differs"] or kinds["failed"]:
        raise SystemExit(1)


def compared(found: Trace, expected: Trace, tolerance: float = 0.0) -> Verdict:
    """Compare two traces; name the first place where they differ by more than ``tolerance``."""
    largest = 0.0
    for update, (mine, theirs) in enumerate(zip(found, expected, strict=True), 1):
        for stage, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            gap = (a - b).abs().nan_to_num(torch.inf)
            relative = float(gap.max() / b.abs().max()) if gap.any() else 0.0
            if not relative <= tolerance:
                numbers = f"{a[gap.argmax()]:.9g} instead of {b[gap.argmax()]:.9g} (relative difference {relative:.0e})"
                return Verdict("differs", f": stage {stage}, update {update}: {numbers}")
            largest = max(largest, relative)
    rounding = Verdict("equal to rounding", f" (largest relative difference {largest:.0e})")
    return rounding if largest else Verdict("equal")


def _guarded(work: Work, left: float) -> Verdict:
    """Do a check so that the next one comes whatever happens in it."""
    began = time.monotonic()
    try:
        if left > 0:
            return work(left)
    except Exception as error:
        if time.monotonic() - began < left:
            first = next(iter(str(error).strip().splitlines()), "no message")
            return Verdict("failed", f": {type(error).__name__}: {first[:300]}")
    return _not_here(f"{LIMIT_S:.0f} s are over; run it alone by --only")


def _not_here(why: str) -> Verdict:
    return Verdict("not here", f" ({why})")


def _checks() -> Iterator[tuple[str, Work]]:
    """Return the checks of this machine: CPU, each GPU, two processes; or a line that says what it lacks."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in (CPU, *gpus):
        for dtype in ROUNDING:
            for rule in STRATEGIES:
                yield f"{device} {str(dtype).removeprefix('torch.')} {rule}", partial(_simulation, device, dtype, rule)
        yield f"{device} no delay, plain PyTorch", partial(_bits, trainings.undelayed, device)
        yield f"{device} checkpoint, resumed", partial(_bits, trainings.resumed, device)
    for device in gpus:
        yield f"{device} as a CUDA graph", partial(_bits, trainings.captured, device)
    yield "two processes, cpu", partial(_processes, [])
    for pair in [gpus[i : i + 2] for i in range(max(1, len(gpus) - 1))] if gpus else []:
        yield f"two processes, {' and '.join(map(str, pair))}", partial(_processes, pair)
    if not gpus:
        built = "" if torch.version.cuda or torch.version.hip else ", which is built without CUDA"
        for name in ("cuda", "cuda as a CUDA graph", "two processes, cuda"):
            yield name, lambda left: _not_here(f"torch {torch.__version__}{built}, sees no GPU")


def _simulation(device: torch.device, dtype: torch.dtype, rule: str, left: float) -> Verdict:
    """Compare with the reference on the CPU; in bfloat16, which devices round coarsely, on the same device."""
    half = dtype == torch.bfloat16
    place = (SINGLE, device) if half else (dtype, CPU)
    expected = reference.train(network(*place), DELAYS, STRATEGIES[rule], batches(*place), half=half)
    found = simulated(device, rule=rule, dtype=place[0], precision="bf16" if half else "native")
    return compared(found, expected, ROUNDING[dtype])


def _bits(train: Callable[[torch.device], tuple[Trace, Trace]], device: torch.device, left: float) -> Verdict:
    return compared(*train(device))


def _processes(gpus: Sequence[torch.device], left: float) -> Verdict:
    """Compare two processes with the simulation: on CPUs bit for bit."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return _not_here("this torch has no gloo")
    expected = simulated(gpus[0] if gpus else CPU)
    found = trainings.two_processes([gpu.index for gpu in gpus], min(_LAUNCH_S, left))
    return compared([*expected[:-1], found], expected, ROUNDING[SINGLE] if gpus else 0.0)


def _machine() -> str:
    """Say what a report of a difference must have beside it."""
    known = [f"{name} {versions()[name]}" for name in ("layerpipe2", "torch", "pytorch-lightning", "python")]
    gpus = list(map(_gpu, range(torch.cuda.device_count())))
    return f"{', '.join(known)}; {device_name(CPU)}, {os.cpu_count()} cores; {', '.join(gpus) or 'no GPU'}"


def _gpu(index: int) -> str:
    try:
        return device_name(torch.device("cuda", index))
    except Exception:  # its checks will say why
        return f"cuda:{index}, which does not answer"
