"""Costs of partitions and speeds of schedules, computed from the networks' shapes and stated devices.

Bytes are those of float32; MB and GB are 10^6 and 10^9 bytes. All numbers are modelled, none is measured on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.tables import Row
from layerpipe2 import networks
from layerpipe2.planning import Costs, FlopDevice, network_costs
from layerpipe2.planning.reference import BATCH_SIZE, CLASSES, DEVICES, INPUT_SHAPE, LINKS, RATE, efficient
from layerpipe2.planning.schedules.compare import compare

NETWORKS = ("mlp", "vgg", "resnet18", "resnet-small")
"""Networks of the tables, keys of ``layerpipe2.networks.NETWORKS``."""


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


def schedules() -> list[Row]:
    """Every reference network, 3 to 9 processors and schedule on the declared device; see ``compare``."""
    return list(compare())


def layerpipe_over_devices() -> list[Row]:
    """Speed of LayerPipe and LayerPipe2 over PipeDream on every device: columns of :func:`schedules` and device."""
    names = ("pipedream", "layerpipe", "layerpipe2")
    return [
        {"device": label} | row for label, device in DEVICES.items() for row in compare(schedules=names, device=device)
    ]
