"""How many updates a mitigation takes to the validation loss that sequential training has after its first epoch."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import SEQUENTIAL
from paper_figures import style
from paper_figures.field.page import SETUPS, field, label, setup_of, with_rows
from paper_figures.records import Records
from paper_figures.text import network_label, span

_MINI_BATCHES = 500  # of an epoch: 16,000 images in mini-batches of 32


def updates_to(losses: np.ndarray, target: float, per_epoch: int) -> float:
    """Updates until the loss, linear between the ends of epochs, reaches the target; infinite if it never does.

    What is below it at the end of the first epoch got there no later than that.
    """
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return math.inf
    last = int(reached[0])
    if not last:
        return float(per_epoch)
    return per_epoch * float(last + (losses[last - 1] - target) / (losses[last - 1] - losses[last]))


@field.value
def speeds(found: dict[str, Records]) -> pd.DataFrame:
    """A row per run with law, setup, network, row, seed and updates; infinite where the target isn't reached."""
    rows = []
    for name, records in found.items():
        law, setup = setup_of(name)
        per_epoch = _MINI_BATCHES // (4 if "per update" in setup else 1)
        epochs = with_rows(records.epochs.sort_values("epoch"))
        for network, mine in epochs.groupby("network", sort=False):
            first = mine[(mine["row"] == SEQUENTIAL) & (mine["epoch"] == 0)]
            target = float(first["val_loss"].mean())
            for (row, seed), run in mine.groupby(["row", "seed"]):
                updates = updates_to(run["val_loss"].to_numpy(), target, per_epoch)
                rows.append(
                    {
                        "law": law,
                        "setup": setup,
                        "network": network,
                        "row": row,
                        "seed": seed,
                        "updates": updates,
                        "last": per_epoch * 3,
                        "target": target,
                    }
                )
    return pd.DataFrame(rows, columns=["law", "setup", "network", "row", "seed", "updates", "last", "target"])


@field.table("updates", shown=None)
def table(speeds: pd.DataFrame) -> pd.DataFrame:
    """Every run."""
    return speeds


@field.figure("updates_to_target", data="updates", when=lambda speeds: len(speeds))
def figure(speeds: pd.DataFrame) -> Figure:
    """A panel per network and optimizer, law 2S or the first there is: a dot per run, a bar at the median."""
    law = "2S" if "2S" in set(speeds["law"]) else speeds["law"].iloc[0]
    mine = speeds[(speeds["law"] == law) & ~speeds["setup"].str.contains("per update")]
    networks = sorted(set(mine["network"]), reverse=True)
    setups = [name for name in SETUPS.values() if name in set(mine["setup"])]
    heights = [mine[mine["setup"] == setup]["row"].nunique() for setup in setups]
    drawn, axes = style.canvas(
        1.0 + sum(0.3 + 0.16 * height for height in heights),
        len(networks),
        len(setups),
        sharex=True,
        height_ratios=heights,
    )
    for line, setup in zip(axes, setups, strict=True):
        ours = mine[mine["setup"] == setup]
        rows = sorted(set(ours["row"]), key=lambda name: (name != SEQUENTIAL, _median(ours, name), label(name)))
        for axis, network in zip(line, networks, strict=True):
            _panel(axis, ours[ours["network"] == network], rows)
            axis.set_title(f"{network_label(network)}, {setup}")
        line[0].set_yticks(range(len(rows)), [label(name) for name in rows], fontsize=6.5)
        for axis in line[1:]:
            axis.set_yticks(range(len(rows)), [])
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    style.title(drawn, f"Updates to the validation loss of sequential training after one epoch, law {law}")
    counts = mine.groupby(["setup", "network", "row"]).size()
    style.note(
        drawn,
        f"Dots: runs, n = {span(counts)} seeds; bars: their median. Losses are known at ends of epochs, every 500\n"
        "updates, and linear between them. x and number: runs that haven't reached it after 1,500, or diverged.",
    )
    return drawn


def _median(runs: pd.DataFrame, row: str) -> float:
    return float(runs[runs["row"] == row]["updates"].median())


def _panel(axis: Any, runs: pd.DataFrame, rows: list[str]) -> None:
    last = runs["last"].max() if len(runs) else 1500
    for y, row in enumerate(rows):
        own = runs[runs["row"] == row]["updates"].to_numpy(dtype=float)
        reached = own[np.isfinite(own)]
        axis.plot(reached, [y] * len(reached), ".", color="#444444", alpha=0.45, markersize=4)
        if len(own) and math.isfinite(middle := float(np.median(own))):
            axis.plot([middle, middle], [y - 0.35, y + 0.35], color="black", linewidth=1.4)
        if len(reached) < len(own):
            axis.plot(1.06 * last, y, "x", color="#444444", markersize=4)
            axis.text(1.08 * last, y, f" {len(own) - len(reached)}", va="center", fontsize=6.5, color="#444444")
    axis.axvline(1.02 * last, color="#999999", linewidth=0.6)
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0.28 * last, 1.16 * last))
    axis.grid(visible=False, axis="y")
