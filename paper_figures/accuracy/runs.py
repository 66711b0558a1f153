"""Training runs: learning curves and final accuracy, with diverged runs shown as diverged."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.outcomes import accuracy_by_group
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import CONFIGURATION, RUN, Records
from paper_figures.text import for_readers, mean_spread, network_label, setting, span


def accuracy(records: Records) -> pd.DataFrame:
    """Final test accuracy by network, partition and strategy, of the completed runs; diverged runs are counted.

    Returns:
        Columns network, stages, group_size, strategy, mean and sd (per cent; the sample standard deviation, absent
        for one run), min, max, n (completed runs), diverged (runs).
    """
    key = [*CONFIGURATION, "strategy"]
    rows = accuracy_by_group(records.runs, key).assign(stages=records.runs.groupby(key)["num_stages"].first())
    columns = ["network", "stages", "group_size", "strategy", "mean", "sd", "min", "max", "n", "diverged"]
    return records.sorted(rows.reset_index()[columns])


@report.table("training", shown=for_readers)
def training(records: Records) -> pd.DataFrame:
    """Last epoch of the completed runs: training loss (nats) and accuracies (per cent), means over n seeds."""
    done = records.runs.loc[records.runs["status"] == "completed", [*RUN, "num_stages"]]
    last = records.epochs.merge(done, on=RUN).sort_values("epoch").groupby(RUN).tail(1)
    rows = last.groupby([*CONFIGURATION, "strategy"]).agg(
        stages=("num_stages", "first"),
        epochs=("epoch", lambda epoch: int(epoch.max()) + 1),
        train_loss=("train_loss", "mean"),
        train_accuracy=("train_accuracy", lambda a: 100 * a.mean()),
        val_loss=("val_loss", "mean"),
        val_accuracy=("val_accuracy", lambda a: 100 * a.mean()),
        n=("seed", "nunique"),
    )
    return records.sorted(rows.reset_index())


def accuracy_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy` with mean, spread, n and divergence in one cell."""
    cells = [mean_spread(r.mean_, r.sd, r.n, r.diverged) for r in table.rename(columns={"mean": "mean_"}).itertuples()]
    short = table[["network", "stages", "group_size", "strategy"]].assign(result=cells)
    return for_readers(short, {"result": ("test accuracy (%), mean ± SD", str)})


@report.figure("curves_{network}", each="network in networks", data="results/curves/{network}.csv")
def curves(records: Records, network: str) -> Figure:
    """Validation accuracy minus that of exact stashing, epoch by epoch: a row per partition, a column per strategy."""
    gaps = gaps_to_stash(records, network)
    names, depths = ordered(gaps["strategy"]), sorted(set(gaps["num_stages"]), reverse=True)
    figure, axes = style.canvas(0.9 + 1.35 * max(1, len(depths)), max(1, len(names)), max(1, len(depths)), sharey=True)
    for row, stages in zip(axes, depths, strict=False):
        for axis, name in zip(row, names, strict=False):
            _draw_gap(axis, gaps[(gaps["num_stages"] == stages) & (gaps["strategy"] == name)], name)
        row[0].set_ylabel(f"{stages} stages, n = {_seeds(gaps[gaps['num_stages'] == stages])}\npoints over stash")
    for axis, name in zip(axes[0], names, strict=False):
        axis.set_title(find_strategy(name).label, color=look(name).colour)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    style.title(figure, f"{network_label(network)}: validation accuracy beside that of exact stashing, along training")
    style.note(figure, _curve_note(records, network))
    return figure


def gaps_to_stash(records: Records, network: str) -> pd.DataFrame:
    """Every run's validation accuracies beside those of stash with its seed, which has completed.

    Returns:
        Columns num_stages (of the pipeline), strategy, seed, status, epoch (from 1) and gap (points).
    """
    status = records.runs[[*RUN, "status", "num_stages"]]
    epochs = records.epochs[records.epochs["network"] == network].merge(status, on=RUN)
    columns = ["seed", "epoch", "val_accuracy"]
    stash = epochs[(epochs["strategy"] == STASH) & (epochs["status"] == "completed")][["num_stages", *columns]]
    others = epochs[epochs["strategy"] != STASH][["num_stages", "strategy", "status", *columns]]
    alone = others["strategy"] == SEQUENTIAL
    both = [
        stash.merge(others[alone].drop(columns="num_stages"), on=["seed", "epoch"], suffixes=("_stash", "")),
        stash.merge(others[~alone], on=["num_stages", "seed", "epoch"], suffixes=("_stash", "")),
    ]
    found = pd.concat(both, ignore_index=True)
    gap = 100 * (found["val_accuracy"] - found["val_accuracy_stash"])
    return found.assign(gap=gap, epoch=found["epoch"] + 1)[["num_stages", "strategy", "seed", "status", "epoch", "gap"]]


def draw_mean_and_range(axis: Any, done: pd.DataFrame, value: str, strategy: str) -> None:
    """Draw the mean of a strategy's runs along training, and their range as a band.

    Args:
        done: columns ``epoch`` and ``value``; a row per completed run and epoch.
    """
    looks, found = look(strategy), done.groupby("epoch")[value].agg(["mean", "min", "max"])
    axis.fill_between(found.index, found["min"], found["max"], color=looks.colour, alpha=0.15, linewidth=0)
    axis.plot(found.index, found["mean"], color=looks.colour, linestyle=looks.dash)


def _draw_gap(axis: Any, gaps: pd.DataFrame, strategy: str) -> None:
    looks = look(strategy)
    axis.axhline(0, color=look(STASH).colour, linewidth=1, zorder=1)
    draw_mean_and_range(axis, gaps[gaps["status"] == "completed"], "gap", strategy)
    for _, run in gaps[gaps["status"] == "diverged"].groupby("seed"):
        finite = run[run["gap"].notna()].sort_values("epoch")
        axis.plot(finite["epoch"].tail(1), finite["gap"].tail(1), **_CROSS, color=looks.colour)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))


_CROSS: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 5, "markeredgewidth": 1.4, "zorder": 5}


def _curve_note(records: Records, network: str) -> str:
    runs = records.runs[records.runs["network"] == network]
    where = setting(records.dataset, records.convention)
    lost = ", x: a run diverged after it" if (runs["status"] == "diverged").any() else ""
    return (
        f"Over the blue line: better than stash with the same seed. Lines: mean of the completed runs, n = "
        f"{_counted(runs[runs['status'] == 'completed'])} seeds;\nbands: their range{lost}. {where}"
    )


def _seeds(gaps: pd.DataFrame) -> str:
    return span(gaps.groupby("strategy")["seed"].nunique())


def _counted(runs: pd.DataFrame) -> str:
    return span(runs.groupby(["network", "group_size", "strategy"])["seed"].nunique())


@report.figure("final_accuracy", data="results/runs.csv")
def final_accuracy(records: Records) -> Figure:
    """Final test accuracy: every run a dot, with mean and range; diverged runs counted below a line."""
    runs = records.runs.assign(percent=100 * records.runs["test_accuracy"])
    done = runs[runs["status"] == "completed"]
    figure, axes = style.panels(records.networks, 3.0, "stages", "test accuracy (%)", sharey=False)
    for network, axis in axes.items():
        mine = runs[runs["network"] == network]
        _draw_baseline(axis, mine[mine["num_stages"] == 1])
        _draw_partitions(axis, mine[mine["num_stages"] > 1])
    title = "Final test accuracy of each strategy, by number of stages"
    style.legend(figure, style.handles(runs["strategy"], linestyle=""), 6, title)
    style.note(figure, _accuracy_note(records, done))
    return figure


def _draw_baseline(axis: Any, runs: pd.DataFrame) -> None:
    percent = runs.loc[runs["status"] == "completed", "percent"]
    if len(percent):
        looks, mean = look(SEQUENTIAL), percent.mean()
        axis.axhline(mean, color=looks.colour, linestyle=looks.dash, linewidth=1, zorder=1)
        if len(percent) > 1:
            axis.axhspan(percent.min(), percent.max(), color=looks.colour, alpha=0.08, linewidth=0, zorder=0)


def _draw_partitions(axis: Any, runs: pd.DataFrame) -> None:
    depths, names = sorted(set(runs["num_stages"])), ordered(runs["strategy"])
    across = axis.get_xaxis_transform()
    if (runs["status"] == "diverged").any():
        axis.margins(y=0.3)
        axis.plot([0, 1], [0.13, 0.13], transform=axis.transAxes, color="#999999", linewidth=0.6)
    for (stages, strategy), cell in runs.groupby(["num_stages", "strategy"]):
        x = depths.index(stages) + 0.84 * ((names.index(strategy) + 0.5) / len(names) - 0.5)
        percent = cell.loc[cell["status"] == "completed", "percent"]
        _draw_cell(axis, x, percent, str(strategy))
        if len(percent) < len(cell):
            color = look(strategy).colour
            axis.plot(x, 0.04, **_CROSS, color=color, transform=across)
            place = {"xycoords": across, "textcoords": "offset points", "ha": "left", "va": "center"}
            axis.annotate(f"{len(cell) - len(percent)}", (x, 0.04), (4, 0), fontsize=7, color=color, **place)
    for border in range(1, len(depths)):
        axis.axvline(border - 0.5, color="#dddddd", linewidth=0.6)
    axis.set_xticks(range(len(depths)), [f"{k}\nn = {_counted(runs[runs['num_stages'] == k])}" for k in depths])
    axis.set_xlim(-0.5, max(len(depths), 1) - 0.5)
    axis.grid(False, axis="x")


def _draw_cell(axis: Any, x: float, percent: pd.Series, strategy: str) -> None:
    looks = look(strategy)
    axis.plot([x] * len(percent), percent, ".", color=looks.colour, alpha=0.45, markersize=3)
    if len(percent) > 1:
        axis.plot([x, x], [percent.min(), percent.max()], color=looks.colour, linewidth=1)
    if len(percent):
        axis.plot(x, percent.mean(), **style.line(strategy, linestyle="", markersize=4.5))


def _accuracy_note(records: Records, done: pd.DataFrame) -> str:
    diverged = len(records.runs) - len(done)
    lost = (
        f"Crosses, below the line: number of diverged runs ({diverged} of {len(records.runs)} in all). "
        if diverged
        else ""
    )
    return (
        f"Markers: mean of the completed runs (dots); bars: their range, n = {_counted(done)} seeds; "
        f"grey: range of sequential training.\n{lost}{setting(records.dataset, records.convention)}"
    )


report.table("accuracy", shown=accuracy_for_readers)(accuracy)
