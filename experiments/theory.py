"""Compute the tables of the theory once: proofs of the derivations, stability, costs of partitions, schedules.

Nothing here needs a training run. Writes proofs, stability, partitions, schedules, devices and spikepipe.csv. Costs
and speeds are modelled from the networks' shapes and stated devices, none is measured on hardware. Bytes are those of
float32, but in spikepipe.csv.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.delays import DELAY_LAWS
from layerpipe2.lab import networks
from layerpipe2.lab.reference import BATCH_SIZE, CLASSES, DEVICES, INPUT_SHAPE, LINKS, RATE, REFERENCE, efficient
from layerpipe2.lab.runs.records import Row, writable_folder, write_csv
from layerpipe2.planning import Costs, FlopDevice, network_costs
from layerpipe2.planning.devices import DEVICE
from layerpipe2.planning.schedules.compare import compare
from layerpipe2.planning.spikepipe import Setting
from layerpipe2.planning.spikepipe.compare import PLACEMENTS, PROCESSORS
from layerpipe2.planning.spikepipe.compare import compare as against_standard
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.network import layered
from layerpipe2.theory.proofs import prove
from layerpipe2.theory.stability import closed_form
from layerpipe2.theory.stability_simulation import chain_growth, quadratic_growth

NETWORKS = ("mlp", "vgg", "resnet18", "resnet-small")
"""Networks of the tables, keys of ``layerpipe2.lab.networks.NETWORKS``."""
MOMENTA = (0.0, 0.5, 0.9)
DELAYS = (0, 1, 4, 14)
CHAINS = ("layerpipe2", "pipedream")
LENGTHS = (2, 3, 4, 6, 8, 10)
RATIO, UPDATES = 1.005, 640
"""Steps that are tried differ by this ratio; a step is unstable if errors grow over the last half of the updates."""


def proofs(names: Sequence[str] = NETWORKS, conventions: Sequence[str] = ("layerpipe2", "pipedream")) -> list[Row]:
    """Derivation and proofs of these networks at every group size.

    Returns:
        One row per network, group size, delay law and proof: units, stages, delays (of the stages, input side first,
        separated by spaces), claim (key of :func:`layerpipe2.theory.prove`), statement, holds, evidence.
    """
    rows: list[Row] = []
    for name in names:
        network = layered(networks.outline(name))
        for convention in conventions:
            for size in range(1, network.num_units + 1):
                derivation = derive(network, group_size=size, convention=convention)
                place = {"network": name, "units": network.num_units, "group_size": size, "convention": convention}
                place |= {"stages": derivation.num_stages, "delays": " ".join(map(str, derivation.delays))}
                rows += [
                    place | {"claim": c.key, "statement": c.statement, "holds": c.holds, "evidence": c.evidence}
                    for c in prove(derivation)
                ]
    return rows


def stability(
    momenta: Sequence[float] = MOMENTA, delays: Sequence[int] = DELAYS, lengths: Sequence[int] = LENGTHS
) -> list[Row]:
    """What the engine does with delayed gradients: rows of panel, series (momentum, delay or delay law), x, y.

    ``bound``: x delay, y largest ``eta lambda`` tried before the first unstable one. ``growth``: x ``eta lambda`` as
    a multiple of the bound of the theory, y measured growth. ``chain``: x stages, y largest ``eta tr H``.
    """
    found = [*_bounds(momenta), *_growths(delays), *_chains(lengths)]
    return [dict(zip(("panel", "series", "x", "y"), row, strict=True)) for row in found]


Point = tuple[str, str, float, float]


def _bounds(momenta: Sequence[float]) -> Iterator[Point]:
    for momentum in momenta:
        for delay in (0, 1, 2, 4, 8, 13, 18):
            steps = _grid(0.003, 4.2)
            unstable = quadratic_growth(steps, delay, momentum, UPDATES) > 1
            yield "bound", f"{momentum:g}", delay, float(steps[int(np.argmax(unstable)) - 1])


def _growths(delays: Sequence[int]) -> Iterator[Point]:
    shares = np.linspace(0.1, 1.45, 16)
    for delay in delays:
        found = quadratic_growth(shares * closed_form(delay), delay, updates=UPDATES)
        yield from (("growth", str(delay), float(x), float(y)) for x, y in zip(shares, found, strict=True))


def _chains(lengths: Sequence[int]) -> Iterator[Point]:
    for name in CHAINS:
        for length in lengths:
            delays = DELAY_LAWS[name].delays(length)
            steps = _grid(0.03, 2.2) / length  # all weights are 1, so tr H is the number of layers
            unstable = chain_growth([1.0] * length, delays, steps, updates=UPDATES) > 1
            yield "chain", name, length, float(steps[int(np.argmax(unstable)) - 1] * length)


def _grid(low: float, high: float) -> NDArray[np.float64]:
    return np.geomspace(low, high, int(np.log(high / low) / np.log(RATIO)) + 2)


def partitions(names: Sequence[str] = NETWORKS, convention: str = "layerpipe2") -> list[Row]:
    """Every group size of these networks (default widths, 3 x 32 x 32 inputs, 100 classes, batch 128).

    Returns:
        One row per network and group size: stages; communication (bytes over all boundaries per mini-batch);
        computation (operations of the slowest stage per mini-batch) and share, the same as a part of the whole
        network's; balance (mean over maximum); parameters, activations, history_stash, history_ema (bytes, summed
        over stages); speed (over one processor) for each link of :data:`LINKS`; efficient, whether no other group
        size of the network has less of both communication and computation.
    """
    rows: list[Row] = []
    for name in names:
        units = networks.build(name, input_shape=INPUT_SHAPE, num_classes=CLASSES)
        sizes = range(1, len(units) + 1)
        found = [network_costs(units, INPUT_SHAPE, size, "stash", convention, BATCH_SIZE) for size in sizes]
        mine = [{"network": name, "group_size": g} | _row(costs) for g, costs in zip(sizes, found, strict=True)]
        rows += [row | {"efficient": efficient(row, mine)} for row in mine]
    return rows


def _row(costs: Costs) -> Row:
    average = Costs(costs.stages, costs.delays, "ema-window", costs.batch_size)
    return {
        "stages": len(costs.stages),
        "communication": sum(costs.boundary_bytes),
        "computation": max(costs.flops),
        "share": max(costs.flops) / sum(costs.flops),
        "balance": costs.balance(),
        "parameters": sum(costs.parameter_bytes),
        "activations": sum(costs.activation_bytes),
        "history_stash": sum(costs.history_bytes),
        "history_ema": sum(average.history_bytes),
        **{name: costs.speedup(FlopDevice(RATE, link)) for name, link in LINKS.items()},
    }


@cache
def _reference() -> dict[str, Costs]:
    return {name: network.costs() for name, network in REFERENCE.items()}


def layerpipe_over_devices() -> list[Row]:
    """Speed of LayerPipe and LayerPipe2 over PipeDream on every device: columns of :func:`schedules` and device."""
    names = ("pipedream", "layerpipe", "layerpipe2")
    return [
        {"device": label} | row
        for label, device in DEVICES.items()
        for row in compare(_reference(), schedules=names, device=device)
    ]


def spikepipe(processors: Sequence[int] = PROCESSORS) -> list[Row]:
    """SpikePipe's schedule on the declared arrays and, placed freely, on arrays of 32 x 32 cells.

    Returns:
        The columns of :func:`layerpipe2.planning.spikepipe.compare`, and array, the cells per side.
    """
    rows: list[Row] = []
    for side, placements in ((DEVICE.rows, PLACEMENTS), (32, ("free",))):
        setting = Setting(replace(DEVICE, rows=side, columns=side))
        found = against_standard(processors=processors, setting=setting, placements=placements)
        rows += [{"array": side} | row for row in found]
    return rows


TABLES: dict[str, Callable[[], list[Row]]] = {
    "devices": layerpipe_over_devices,  # the slowest first
    "spikepipe": spikepipe,
    "stability": stability,
    "schedules": lambda: compare(_reference()),
    "partitions": partitions,
    "proofs": proofs,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the tables in two processes, write them."""
    parser = Parser(prog="python -m experiments.theory", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/theory"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    writable_folder(options.out)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name, rows in zip(TABLES, pool.map(_computed, TABLES), strict=True):
            write_csv(options.out / f"{name}.csv", list(rows[0]), rows)
            print(f"{name}: {len(rows)} rows")


def _computed(name: str) -> list[Row]:
    return TABLES[name]()


if __name__ == "__main__":
    sys.exit(run_command("experiments.theory", main, None))
