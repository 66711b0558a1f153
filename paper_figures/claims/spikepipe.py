"""Where the numbers of SpikePipe's abstract fall in our model: sentences, no verdict: the schedule is our reading."""

import pandas as pd

from layerpipe2.planning.spikepipe.networks import LABELS

ANCHORS = (1.6, 2.0)
"""SpikePipe's abstract: speed over standard pipelining on average, and in some cases."""
OVERHEAD = 0.005
"""Its abstract: communication that the method adds is less than this share of all that training requires."""


def in_our_model(table: pd.DataFrame) -> tuple[str, ...]:
    """Speed of the finest and of the fastest schedules beside the abstract's; what they send; what arrays change."""
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
