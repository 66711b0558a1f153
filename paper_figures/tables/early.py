"""How far strategies are behind exact stashing after the first epoch, and after the last one."""

from collections.abc import Iterable

import pandas as pd

from paper_figures.claims.assay import long_name
from paper_figures.designs import STASH
from paper_figures.records.training import RUN, Records
from paper_figures.style import labels, ordered

_KNOWN = ["dataset", "num_stages", "convention", "optimizer", "momentum", "status"]


def behind_stash(records: Records) -> pd.DataFrame:
    """Every pipelined run with its own learning rate beside that of stash with its seed; both completed.

    Returns:
        Columns cell, strategy, seed; ``first`` and ``last``: validation accuracy minus that of stash after these
        epochs, in points. No rows where there is one epoch.
    """
    runs = records.runs[records.runs["num_stages"] > 1]
    known = records.epochs.merge(runs.loc[runs["status"] == "completed", [*RUN, *_KNOWN]], on=RUN)
    last = known["epoch"].max()
    if not last > 0:
        return pd.DataFrame(columns=["cell", "strategy", "seed", "first", "last"])
    known["cell"] = [long_name(row) for row in known.to_dict("records")]
    values = (
        100 * known.pivot_table(index=["cell", "seed", "strategy"], columns="epoch", values="val_accuracy")[[0, last]]
    )
    found = values.set_axis(["first", "last"], axis=1).reset_index()
    stash = found[found["strategy"] == STASH].drop(columns="strategy")
    both = found.merge(stash, on=["cell", "seed"], suffixes=("", "_stash"))
    gaps = {name: both[name] - both[f"{name}_stash"] for name in ("first", "last")}
    return both.assign(**gaps)[["cell", "strategy", "seed", "first", "last"]]


def early(found: Iterable[Records]) -> pd.DataFrame | None:
    """Strategies by cells, ``-16.5 to -0.6``: mean points behind stash after the first and after the last epoch.

    None where every run has one epoch.
    """
    gaps = pd.concat([behind_stash(records) for records in found], ignore_index=True)
    gaps = gaps[gaps["strategy"] != STASH]
    if gaps.empty:
        return None
    means = gaps.groupby(["strategy", "cell"])[["first", "last"]].mean()
    texts = {
        key: f"{first:+.1f} to {last:+.1f}" for key, (first, last) in zip(means.index, means.to_numpy(), strict=True)
    }
    names = ordered(gaps["strategy"])
    columns = {cell: [texts.get((name, cell), "–") for name in names] for cell in sorted(set(gaps["cell"]))}
    return pd.DataFrame({"strategy": labels(names)} | columns, dtype=object)
