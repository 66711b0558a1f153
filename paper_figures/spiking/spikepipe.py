"""SpikePipe's schedule against standard pipelining: speed, utilisation, communication over the number of processors.

Where its abstract's numbers fall in our model are sentences, no verdict: the schedule is our reading.
"""

from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layerpipe2.planning.spikepipe.networks import LABELS
from paper_figures import style
from paper_figures.page import report
from paper_figures.theory import Theory

ANCHORS = (1.6, 2.0)
"""SpikePipe's abstract: speed over standard pipelining on average, and in some cases."""


OVERHEAD = 0.005
"""Its abstract: communication that the method adds is less than this share of all that training requires."""


@report.value
def spikepipe_in_our_model(spikepipe: pd.DataFrame) -> tuple[str, ...]:
    """Speed of the finest and of the fastest schedules beside the abstract's; what they send; what arrays change."""
    table = spikepipe
    declared = table[table["array"] == table["array"].iloc[0]]
    whole = declared["steps"].max()
    fast = declared[(declared["placement"] == "free") & (declared["steps"] == whole)]
    fine = declared[(declared["placement"] == "free") & (declared["steps"] == 1)]
    kept = declared[(declared["placement"] == "together") & (declared["steps"] == whole)]
    base = declared[declared["placement"] == "standard"]
    few = fast[fast["processors"] <= 8]
    best = fast.loc[fast["speed"].idxmax()]
    other = table[(table["array"] != table["array"].iloc[0]) & (table["placement"] == "free")]
    small = other[other["steps"] == whole]
    cost = fine.groupby("network", sort=False)["work"].first() / fast.groupby("network", sort=False)["work"].first()
    costs = ", ".join(f"{LABELS[str(name)]} {ratio:.2f}" for name, ratio in cost.items())
    added = (fast["megabytes"].to_numpy() / base["megabytes"].to_numpy()).mean()
    added_kept = (kept["megabytes"].to_numpy() / base["megabytes"].to_numpy()).mean()
    return (
        f"SpikePipe's abstract: {ANCHORS[0]:g} times standard pipelining on average, 'an upwards of {ANCHORS[1]:g}X "
        f"improvement in some cases'. Here tasks of whole sequences, placed freely, run at {_range(fast)}; the most is "
        f"{LABELS[best['network']]} on {best['processors']} processors. With at most 8 processors, all of which "
        f"standard pipelining can use: {_range(few)}. So the average is {_beside(fast['speed'].mean())} the abstract's "
        f"over all cases, and {_beside(few['speed'].mean())} it with at most 8 processors. The gain is that of "
        "balance: standard pipelining waits for its slowest group of whole units, and has no use for more processors "
        "than units.",
        f"A task per time step, the finest schedule, runs at {_range(fine)}: it fills the array once per step, and so "
        f"takes more cycles, by a factor of {costs}. On the declared array a finer schedule costs more than it wins.",
        f"Communication: links are busy for {_shares(fast)} of the time of links and processors, in standard pipelines "
        f"for {_shares(base)}. Free placement sends {added:.1f} times as many bytes as standard pipelining on average, "
        "since weights and membranes travel; with the tasks of a unit and mini-batch kept together, at "
        f"{_range(kept)}, it is {added_kept:.1f} times. The abstract's 'less than {100 * OVERHEAD:g} % of the total "
        "required communication' has a total that is not known to us; nothing here confirms it.",
        f"On arrays of {other['array'].iloc[0]} × {other['array'].iloc[0]} cells, where filling costs less: whole "
        f"sequences at {_range(small)}, a task per time step at {_range(other[other['steps'] == 1])}.",
    )


def _range(cases: pd.DataFrame) -> str:
    speed = cases["speed"]
    return f"{speed.mean():.2f} times on average (from {speed.min():.2f} to {speed.max():.2f}, n={len(speed)})"


def _shares(cases: pd.DataFrame) -> str:
    share = 100 * cases["communication"]
    return f"{share.min():.1f} to {share.max():.1f} %"


def _beside(found: float) -> str:
    return "above" if found > ANCHORS[0] else "not above"


@report.value
def spikepipe_speeds(theory: Theory) -> pd.DataFrame:
    """Speed over standard pipelining, utilisation and communication: cases down, processors across."""
    rows = []
    keys = ["array", "network", "placement", "steps"]
    for (array, network, placement, steps), mine in theory.spikepipe.groupby(keys, sort=False):
        row: dict[str, object] = {"array": f"{array} × {array}", "network": LABELS[network]}
        row |= {"placement": placement, "steps per task": str(steps)}
        for case in mine.itertuples():
            shares = f"{100 * case.utilisation:.0f} %, {100 * case.communication:.1f} %"
            row[f"P={case.processors}"] = f"{case.speed:.2f} ({shares})"
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


_COLOURS = {"standard": "#000000", "together": "#999933", "free": "#882255"}


_MARKERS = {"standard": "", "together": "^", "free": "o"}


def _look(placement: str, *, whole: bool) -> dict[str, Any]:
    colour = _COLOURS[placement]
    look: dict[str, Any] = {
        "color": colour,
        "marker": _MARKERS[placement],
        "linestyle": style.SOLID if whole else (0, (1, 1)),
    }
    if placement == "standard":
        look |= {"linestyle": (0, (4, 2)), "linewidth": 0.8}
    return look | {"markerfacecolor": colour if whole else "white"}


@report.figure("spikepipe", data="results/theory/spikepipe.csv")
def against_standard(spikepipe: pd.DataFrame) -> Figure:
    """Speed over standard pipelining, a panel per network; tasks of whole sequences, and the freest of a time step."""
    table = spikepipe[spikepipe["array"] == spikepipe["array"].iloc[0]]
    names, whole = list(dict.fromkeys(table["network"])), table["steps"].max()
    figure, axes = style.canvas(2.9, len(names), sharey=True)
    for axis, name in zip(axes.flat, names, strict=True):
        cases = table[table["network"] == name].groupby(["placement", "steps"], sort=False)
        for (placement, steps), mine in cases:
            if steps == whole or placement == "free":
                axis.plot(mine["processors"], mine["speed"], clip_on=False, **_look(placement, whole=steps == whole))
        axis.set(title=LABELS[name], xlabel="processors", xticks=sorted(set(table["processors"])))
        axis.axhspan(*ANCHORS, color="#dddddd", linewidth=0, zorder=0)
    axes[0, 0].set(ylabel="speed over standard\npipelining", ylim=(0, None))
    style.legend(figure, _entries(), 3, "What a spiking network gains from other placements than standard pipelining's")
    sizes = "Modelled, n = 1: 128 × 128 arrays at 1 GHz, links of 64 GB/s and 1 µs, mini-batches of 32, 8 time steps."
    style.note(
        figure, f"{sizes} The delays are\nthe same everywhere. 1 × 28 × 28 inputs; networks of 9, 8 and 10 units."
    )
    return figure


def _entries() -> list[Artist]:
    return [
        style.handle("standard pipelining", **_look("standard", whole=True)),
        style.handle("free placement", **_look("free", whole=True)),
        style.handle("unit and mini-batch together", **_look("together", whole=True)),
        style.handle("free placement, a time step per task", **_look("free", whole=False)),
        Patch(color="#dddddd", label="SpikePipe's abstract: 1.6 on average, 2 in some cases"),
    ]
