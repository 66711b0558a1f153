"""How long the theory takes: derivations with all proofs, and the simulator of schedules. Prints medians of 3."""

import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from functools import partial

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.lab.networks import outline
from layerpipe2.planning.costs import uniform_costs
from layerpipe2.planning.devices import FlopDevice
from layerpipe2.planning.schedules import build_schedule, simulate
from layerpipe2.planning.spikepipe import Setting
from layerpipe2.planning.spikepipe.compare import fine
from layerpipe2.planning.spikepipe.networks import dense
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.network import layered
from layerpipe2.theory.proofs import prove


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was timed and how long it took."""
    Parser(prog="python -m experiments.benchmarks.theory", description=__doc__).parse_args(arguments)
    resnet = layered(outline("resnet18"))
    sizes = range(1, resnet.num_units + 1)
    work: dict[str, Callable[[], object]] = {
        f"ResNet-18 at all {len(sizes)} group sizes: derivations and proofs": lambda: [
            prove(derive(resnet, group_size=size)) for size in sizes
        ],
        "152 layers, one per stage: derivation and proofs": lambda: prove(derive(152)),
    }
    for name in ("gpipe", "1f1b", "zb-h1", "pipedream", "layerpipe2"):
        work[f"{name}: 1,000 mini-batches through 16 stages"] = partial(run_schedule, name)
    for placement in ("fixed", "together", "free"):
        what = "1,000 mini-batches, 16 units, 8 time steps, 8 processors"
        work[f"spikepipe, {placement}: {what}"] = partial(run_spikepipe, placement)
    for what, call in work.items():
        print(f"{statistics.median(timeit.repeat(call, number=1, repeat=3)):7.2f} s  {what}")


def run_schedule(name: str, stages: int = 16, batches: int = 1000) -> None:
    """Build and simulate a schedule with equal stages, one processor each."""
    simulate(build_schedule(name, stages, stages, batches), uniform_costs(stages), FlopDevice(1.0))


def run_spikepipe(placement: str, units: int = 16, batches: int = 1000, processors: int = 8) -> None:
    """Make and check a list schedule with a task per time step."""
    fine((dense(1024, 1024),) * units, processors, Setting(), placement, 1, batches)


if __name__ == "__main__":
    sys.exit(run_command("experiments.benchmarks.theory", main, None))
