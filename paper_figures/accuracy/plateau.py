"""Does the curvature of the plateau tell who diverges? What was measured along warm-ups, against outcomes on record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from layerpipe2.theory.plateau import RECALLED, growth
from paper_figures import style
from paper_figures.accuracy.evidence import evidence
from paper_figures.accuracy.why import cut
from paper_figures.read import TableForm, read_table
from paper_figures.records import Records
from paper_figures.text import network_label, number

MADE = ("mnist1d mlp", "mnist1d cnn-small")
"""The networks whose searches make the thresholds."""
_QUANTITIES = {
    "peak_lr": "learning rate",
    "rate_delay": "rate × delay",
    "k": "k = rate × |smallest curvature| × delay",
    "x": "growth x of the strategy at that k",
    "early": "k with the first curvature and the peak rate (post hoc)",
}
_GUESS = 0.12
"""Accuracy of a search's trial that is hardly above guessing: ten classes, and a fifth more."""
_LAST = 1000.0
"""Largest k of the figure: beyond it the run of stash has diverged while it was measured."""
_DRAWS = 2000
_POINT = ["cell", "peak_lr"]


def measured(folder: Path) -> pd.DataFrame | None:
    """Cell and rate -> the largest ``k`` of the warm-up; None if nothing was measured."""
    path = folder / "why-plateau" / "curvatures.csv"
    if not path.is_file():
        return None
    form = TableForm(("network", "num_stages", "peak_lr", "max_delay", "lr", "smallest"), ("smallest",))
    table = read_table(path, form, "delete it, and run: python -m experiments.predicting.plateau")
    table["k"] = -table["lr"] * table["smallest"].clip(upper=0) * table["max_delay"]
    table["cell"] = [_cell(*row) for row in table[["experiment", "network", "num_stages"]].itertuples(index=False)]
    table = table[np.isfinite(table["k"])]
    found = table.groupby(_POINT).agg(k=("k", "max"), delay=("max_delay", "max")).reset_index()
    first = table.groupby(_POINT)["smallest"].first().clip(upper=0).to_numpy()
    rate = found["peak_lr"] * found["delay"]
    return found.assign(rate_delay=rate, early=-rate * first)


def _cell(experiment: str, network: str, stages: int) -> str:
    return f"mnist1d {network}" if experiment == "mnist1d" else f"fashion-mnist {network} {stages}"


def outcomes(screens: Mapping[str, Records], searched: pd.DataFrame) -> pd.DataFrame:
    """Columns cell, peak_lr, strategy, lost: whether half of the runs or more diverged."""
    mine = searched[searched["stages"] > 1]
    lost = (mine["status"] == "diverged") | (mine["val_accuracy"] <= _GUESS)
    tables = [mine.assign(cell="mnist1d " + mine["network"], peak_lr=mine["lr"], lost=lost)]
    for records in screens.values():
        runs = with_scores(records.all_runs, ComparisonSettings.of(records.experiment))
        runs = runs[(runs["num_stages"] > 1) & (runs["optimizer"] == "sgd") & (runs["momentum"] == 0)]
        names = [_cell("", row.network, row.num_stages) for row in runs.itertuples()]
        tables.append(runs.assign(cell=names, peak_lr=runs["lr"], lost=runs["status"] == "diverged"))
    rows = pd.concat(tables)[[*_POINT, "strategy", "lost"]]
    return rows.groupby([*_POINT, "strategy"])["lost"].mean().ge(0.5).reset_index()


@evidence.value
def plateau(folder: Path, screens: Mapping[str, Records]) -> pd.DataFrame | None:
    """Strategies x cells x rates with outcome and quantities, those of the model alone.

    None without a search, or if the networks that make the thresholds all ended alike, as in a very short search.
    """
    known = measured(folder) if screens else None
    if known is None:
        return None
    both = outcomes(screens, pd.read_csv(folder.parent / "tuning.csv")).merge(known, on=_POINT)
    both = both[both["strategy"].isin(RECALLED)].reset_index(drop=True)
    both = both.assign(x=[growth(row.strategy, row.k) for row in both.itertuples()], made=both["cell"].isin(MADE))
    made = both[both["made"]]
    return both if all(cut(made[name], made["lost"]) for name in _QUANTITIES) else None


def areas(values: pd.Series, lost: pd.Series, weights: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Areas under the ROC curve of "the larger, the sooner it diverges", for each row of ``weights`` (draws, n)."""
    x, y = values.to_numpy(dtype=float), lost.to_numpy(dtype=bool)
    above = np.sign(x[y][:, None] - x[~y]) / 2 + 0.5
    every = np.broadcast_to(np.atleast_2d(weights), (np.atleast_2d(weights).shape[0], len(x)))
    up, down = every[:, y], every[:, ~y]
    with np.errstate(invalid="ignore"):  # a draw in which all ended alike has none
        found: NDArray[np.float64] = ((up @ above) * down).sum(1) / (up.sum(1) * down.sum(1))
    return found


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """How well each quantity tells who diverges on networks that did not make its threshold.

    Returns:
        Columns quantity, made and tried (areas), n, gain with its ends (of the area, to that of the rate; 95 %,
        bootstrap over cells and rates), threshold, right (share of the tried).
    """
    made, tried = table[table["made"]], table[~table["made"]]
    place = tried.groupby(_POINT).ngroup().to_numpy()
    count, random = place.max() + 1, np.random.default_rng(0)
    weights = random.multinomial(count, np.full(count, 1 / count), size=_DRAWS)[:, place]
    drawn = {name: areas(tried[name], tried["lost"], weights) for name in _QUANTITIES}
    rows = []
    for name in _QUANTITIES:
        found = cut(made[name], made["lost"])
        assert found is not None
        ends = np.nanquantile(drawn[name] - drawn["peak_lr"], [0.025, 0.975])
        own, rate = (areas(tried[one], tried["lost"])[0] for one in (name, "peak_lr"))
        right = ((tried[name] >= found.threshold) == tried["lost"]).mean()
        row = {"quantity": name, "made": areas(made[name], made["lost"])[0], "tried": own, "n": len(tried)}
        gain = {"gain": own - rate, "low": ends[0], "high": ends[1]}
        rows.append(row | gain | {"threshold": found.threshold, "right": right})
    return pd.DataFrame(rows)


def agreeing(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of strategies: where one diverged and the other didn't, is it the one that grows faster on a plateau?"""
    wide = table.pivot(index=_POINT, columns="strategy", values="lost").reindex(columns=[*RECALLED])
    rows = []
    for first, second in (("latest", "stash"), ("ema-lsq", "stash"), ("stash", "ema-span"), ("latest", "ema-span")):
        both = wide[[first, second]].dropna().astype(bool)
        apart = both[both[first] != both[second]]
        label = f"{find_strategy(first).label} before {find_strategy(second).label}"
        rows.append(
            {"the model's order": label, "as it says": int(apart[first].sum()), "the reverse": int(apart[second].sum())}
        )
    return pd.DataFrame(rows, dtype=object)


@evidence.value
def plateau_shown(plateau: pd.DataFrame | None) -> dict[str, Any] | None:
    """Tables and a verdict for readers."""
    if plateau is None:
        return None
    found = compared(plateau)
    says = [_against_rate(row) for row in found.to_dict("records") if row["quantity"] in ("k", "early")]
    rows = [
        {
            "quantity": _QUANTITIES[row["quantity"]],
            "area, networks that made it": number(2)(row["made"]),
            "area, other networks": number(2)(row["tried"]),
            "against the rate": f"{row['gain']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]",
            "diverges from": f"{row['threshold']:.3g}",
            "right on others": f"{100 * row['right']:.0f} % of {row['n']}",
        }
        for row in found.to_dict("records")
    ]
    return {"says": says, "table": pd.DataFrame(rows, dtype=object), "order": agreeing(plateau)}


def _against_rate(row: Mapping[str, Any]) -> str:
    shown = (
        "shown to be better" if row["low"] > 0 else "shown to be worse" if row["high"] < 0 else "not shown to be better"
    )
    what, ends = _QUANTITIES[row["quantity"]], f"{row['gain']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{what}: {shown} than the rate alone; difference of the areas {ends}."


evidence.table("plateau", shown=None, when=lambda plateau: plateau is not None)(lambda plateau: plateau)


@evidence.figure("plateau", when=lambda plateau: plateau is not None)
def draw(plateau: pd.DataFrame) -> Figure:
    """Draw the model's growth over k, and who diverged over the rate and over k, a row per network."""
    names, cells = ordered(plateau["strategy"]), list(dict.fromkeys(plateau["cell"]))
    figure, axes = style.canvas(4.6, columns=3)
    ks = np.geomspace(0.05, 50, 80)
    for name in names:
        axes[0, 0].plot(ks, [growth(name, k) for k in ks], **style.line(name, marker=""))
    axes[0, 0].set(xscale="log", yscale="log", title="The model", xlabel="k (no unit)")
    axes[0, 0].set_ylabel("growth of a disturbance\n(nats in one delay)")
    for axis, quantity in zip(axes[0, 1:], ("peak_lr", "k"), strict=True):
        for row in plateau.itertuples():
            y = cells.index(row.cell) + 0.2 * (names.index(row.strategy) - (len(names) - 1) / 2)
            face = style.line(row.strategy)["color"] if row.lost else "white"
            look = style.line(row.strategy, linestyle="", markerfacecolor=face, markersize=4, markeredgewidth=0.7)
            axis.plot(min(getattr(row, quantity), _LAST), y, clip_on=False, **look)
        axis.axvline(_threshold(plateau, quantity), **_THRESHOLD)
        for border in range(1, len(cells)):
            axis.axhline(border - 0.5, color="#dddddd", linewidth=0.6)
        axis.set(xscale="log", ylim=(len(cells) - 0.5, -0.5))
        axis.set_yticks(range(len(cells)), [_named(cell) for cell in cells] if quantity == "peak_lr" else [])
        axis.grid(visible=False, axis="y")
    axes[0, 1].set(xlabel="peak learning rate", title="Runs, by learning rate")
    axes[0, 2].set(xlabel="k (no unit)", title="The same runs, by k")
    entries = [*style.handles(names), style.handle("threshold", **_THRESHOLD)]
    style.legend(figure, entries, 6, "Who diverges: does k tell it better than the learning rate alone?")
    made = " and ".join(_named(cell).replace("\n", " on ") for cell in MADE)
    style.note(
        figure,
        "k = learning rate × delay (updates; of the first stage) × size of the most negative curvature, largest of the "
        "warm-up,\nmeasured in one run of stash per network and rate. A row per strategy that was run. Filled: half of "
        "the runs or more\ndiverged (n = 3 on MNIST-1D, 2 on Fashion-MNIST); hollow: fewer; no interval. Threshold: "
        f"parts them best in\n{made}. Marks at the right edge: k above {_LAST:,.0f}.",
    )
    return figure


_THRESHOLD: dict[str, Any] = {"color": "#666666", "linewidth": 0.8, "linestyle": (0, (4, 2))}


def _threshold(table: pd.DataFrame, quantity: str) -> float:
    """From which value on half of the runs or more diverge, by the networks that make it."""
    made = table[table["made"]]
    found = cut(made[quantity], made["lost"])
    assert found is not None
    return found.threshold


def _named(cell: str) -> str:
    dataset, network, *stages = cell.split()
    data = {"mnist1d": "MNIST-1D", "fashion-mnist": "Fashion-MNIST"}[dataset]
    return f"{network_label(network)}{', ' + stages[0] + ' stages' if stages else ''}\n{data}"
