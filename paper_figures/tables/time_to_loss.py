"""Tables of the trainings to a loss, as text for readers."""

import math

import pandas as pd

from layerpipe2.planning.variants import Variant
from paper_figures import variant_style
from paper_figures.records.pipelines import label
from paper_figures.records.time_to_loss import TimeToLoss


def seconds(found: TimeToLoss) -> pd.DataFrame:
    """A row per network, place and choice: its rate, updates, seconds per update, and seconds to the target."""
    rates = found.tuned.set_index(["network", "strategy"])
    targets = {net["network"]: net["target"] for net in found.networks}
    shown, rows = found.summary(), []
    for (network, place), mine in shown.groupby(["network", "place"], sort=False):
        mine = mine.set_index("variant")
        for variant in variant_style.ordered(mine.index):
            row, rate = mine.loc[variant], rates.loc[(network, Variant.parse(variant).learns_as)]
            end = f" ({rate['at_end']} end)" if isinstance(rate["at_end"], str) and rate["at_end"] else ""
            text = (
                f"{row['seconds']:.2f} ({row['low']:.2f}–{row['high']:.2f})" if math.isfinite(row["seconds"]) else "–"
            )
            best = f"**{text}**" if variant == mine["seconds"].idxmin() else text
            cells = [place, label(network), f"{targets[network]:g}", variant_style.label(variant)]
            cells += [f"{rate['lr']:g}{end}", f"{row['reached']} of {row['n']}"]
            cells += [f"{row['updates']:g}" if math.isfinite(row["updates"]) else "–"]
            rows.append([*cells, f"{1e3 * row['seconds_per_update']:.1f}", best])
    head = ["place", "network", "target loss", "choice", "learning rate", "seeds that reach it", "updates, median"]
    return pd.DataFrame(rows, columns=[*head, "ms per update", "seconds to the target (95 % interval)"])
