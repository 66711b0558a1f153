"""How far strategies are behind exact stashing after the first epoch, and after the last one."""

from collections.abc import Mapping

import pandas as pd

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import STASH
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures.accuracy.assay import long_name
from paper_figures.accuracy.evidence import evidence
from paper_figures.records import RUN, Records

_KNOWN = ["dataset", "num_stages", "convention", "optimizer", "momentum"]


def behind_stash(records: Records) -> pd.DataFrame:
    """Every pipelined run with its own learning rate beside that of stash with its seed; neither has diverged.

    A run that ended hardly better than guessing has diverged: :func:`with_scores`. Seeds of the control alone are left
    out, so that all strategies have the same.

    Returns:
        Columns cell, strategy, seed; ``first`` and ``last``: validation accuracy minus that of stash after these
        epochs, in points. No rows where runs have one epoch.
    """
    runs = with_scores(records.runs, ComparisonSettings.of(records.experiment))
    runs = runs[(runs["num_stages"] > 1) & (runs["status"] == "completed")]
    runs = runs[runs["seed"].isin(records.experiment["seeds"])]
    epochs = records.epochs.merge(runs[[*RUN, *_KNOWN]], on=RUN).sort_values("epoch")
    epochs["cell"] = [long_name(row) for row in epochs.to_dict("records")]
    found = epochs.groupby(["cell", "strategy", "seed"], sort=False).agg(
        first=("val_accuracy", "first"), last=("val_accuracy", "last"), epochs=("epoch", "nunique")
    )
    found = found[found["epochs"] > 1].reset_index()
    stash = found[found["strategy"] == STASH]
    both = found.merge(stash, on=["cell", "seed"], suffixes=("", "_stash"))
    gaps = {name: 100 * (both[name] - both[f"{name}_stash"]) for name in ("first", "last")}
    return both.assign(**gaps)[["cell", "strategy", "seed", "first", "last"]]


@evidence.value
def early(confirmed: Mapping[str, Records]) -> pd.DataFrame | None:
    """Cells by strategies, ``-16.5 → -0.6``: mean points behind stash after the first and after the last epoch.

    ``(n=4)`` follows where a cell has more seeds. None where every run has one epoch.
    """
    gaps = pd.concat([behind_stash(records) for records in confirmed.values()], ignore_index=True)
    rows = gaps.groupby(["cell", "strategy"]).agg(first=("first", "mean"), last=("last", "mean"), n=("seed", "nunique"))
    most = rows["n"].groupby("cell").max()
    texts = {
        row.Index: f"{row.first:+.1f} → {row.last:+.1f}" + (f" (n={row.n})" if row.n < most[row.Index[0]] else "")
        for row in rows.itertuples()
    }
    names = [name for name in ordered(gaps["strategy"]) if name != STASH]
    columns = {find_strategy(name).label: [texts.get((cell, name), "–") for cell in most.index] for name in names}
    return pd.DataFrame({"cell": most.index} | columns, dtype=object) if names else None
