"""Tables of costs and schedules: computed from the networks' shapes and stated devices, no records needed.

Bytes are those of float32; MB and GB are 10^6 and 10^9 bytes. All numbers are modelled, none is measured on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from layerpipe2 import networks
from layerpipe2.costs import Costs, Device, FlopDevice, Link, SystolicArray, network_costs
from layerpipe2.schedules.compare import DEVICE, compare
from layerpipe2.schedules.registry import SCHEDULES

INPUT_SHAPE = (3, 32, 32)
CLASSES = 100
BATCH_SIZE = 128
RATE = 10e12
"""FLOP/s of the processors in the table of partitions."""
LINKS: Mapping[str, Link] = {
    "32 GB/s": Link(32e9, 1e-6),
    "8 GB/s": Link(8e9, 1e-6),
    "2 GB/s": Link(2e9, 1e-6),
}
"""Links between neighbours, each way, with 1 us latency."""
DEVICES: Mapping[str, Device] = {
    "128 × 128, output st.": DEVICE,
    "128 × 128, weight st.": SystolicArray(128, 128, "ws", 1e9, Link(64e9, 1e-6)),
    "32 × 32, output st.": SystolicArray(32, 32, "os", 1e9, Link(64e9, 1e-6)),
    "FLOP/s only": FlopDevice(2 * 128 * 128 * 1e9, Link(64e9, 1e-6)),
    "128 × 128, free links": SystolicArray(128, 128, "os", 1e9),
    "128 × 128, slow links": SystolicArray(128, 128, "os", 1e9, Link(8e9, 1e-5)),
}
"""Devices over which the gain of LayerPipe is looked at; links of 64 GB/s and 1 us, slow: 8 GB/s and 10 us."""


def partitions(names: Sequence[str] = tuple(networks.NETWORKS), convention: str = "layerpipe2") -> pd.DataFrame:
    """Every group size of the project's networks (default widths, 3 x 32 x 32 inputs, 100 classes, batch 128).

    Returns:
        One row per network and group size: stages; communication (bytes over all boundaries per mini-batch);
        computation (operations of the slowest stage per mini-batch) and share, the same as a part of the whole
        network's; balance (mean over maximum); parameters, activations, history_stash, history_ema (bytes, summed
        over stages); speed (over one processor) for each link of :data:`LINKS`; efficient, whether no other group
        size of the network has less of both communication and computation.
    """
    rows = []
    for name in names:
        units = networks.build(name, input_shape=INPUT_SHAPE, num_classes=CLASSES)
        for group in range(1, len(units) + 1):
            costs = network_costs(units, INPUT_SHAPE, group, "stash", convention, BATCH_SIZE)
            rows.append({"network": name, "group_size": group} | _row(costs))
    table = pd.DataFrame(rows)
    table["efficient"] = efficient(table)
    return table


def _row(costs: Costs) -> dict[str, float]:
    average = Costs(costs.stages, costs.schedule, "ema-window", costs.batch_size)
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


def efficient(table: pd.DataFrame) -> list[bool]:
    """Which rows are on their network's Pareto front of communication and computation (less of both is better)."""
    found = []
    for row in table.itertuples():
        others = table[table["network"] == row.network]
        no_worse = (others["communication"] <= row.communication) & (others["computation"] <= row.computation)
        better = (others["communication"] < row.communication) | (others["computation"] < row.computation)
        found.append(not bool((no_worse & better).any()))
    return found


def schedules() -> pd.DataFrame:
    """Every reference network, 3 to 9 processors and schedule on the declared device; see ``Row`` in ``compare``."""
    return pd.DataFrame(compare())


def layerpipe_over_devices() -> pd.DataFrame:
    """Speed of LayerPipe and LayerPipe2 over PipeDream on every device: columns of :func:`schedules` and device."""
    names = ("pipedream", "layerpipe", "layerpipe2")
    return pd.concat(
        [pd.DataFrame(compare(schedules=names, device=d)).assign(device=label) for label, d in DEVICES.items()],
        ignore_index=True,
    )


def stages(name: str, group_size: int, strategy: str = "stash", convention: str = "layerpipe2") -> pd.DataFrame:
    """Bytes and operations of every stage of one partition, per mini-batch of 128: the rows of ``Costs``."""
    units = networks.build(name, input_shape=INPUT_SHAPE, num_classes=CLASSES)
    return pd.DataFrame(network_costs(units, INPUT_SHAPE, group_size, strategy, convention, BATCH_SIZE).rows())


def speed_over_pipedream(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`schedules` for readers: networks and schedules down, processors across, speed ratios."""
    order = [name for name in SCHEDULES if name != "pipedream"]
    wide = table.pivot_table(index=["network", "schedule"], columns="processors", values="speed", sort=False)
    wide = wide.loc[[(n, s) for n in dict.fromkeys(table["network"]) for s in order if (n, s) in wide.index]]
    return wide.map(lambda v: "–" if pd.isna(v) else f"{v:.2f}").reset_index().rename(columns=str)
