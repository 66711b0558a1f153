"""Training runs: learning curves and final accuracy, with diverged runs shown as diverged."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.judging.outcomes import accuracy_by_group
from layerpipe2.lab.looks import look, ordered
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import CONFIGURATION, RUN, Records
from paper_figures.text import for_readers, mean_spread, setting, span


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


_LOSS = "training loss\n(nats, log scale)"


@report.figure("curves_{network}", each="network in networks")
def curves(records: Records, network: str) -> Figure:
    """Accuracy and loss against epoch: rows are measures, columns partitions, the sequential runs in every column."""
    epochs, ceiling = _capped(_epochs(records, network))
    partitions = epochs.loc[epochs["num_stages"] > 1, ["num_stages", "group_size"]].drop_duplicates()
    columns = partitions.sort_values("num_stages").to_numpy().tolist() or [[1, int(epochs["group_size"].iloc[0])]]
    figure, axes = style.canvas(4.2, columns=len(columns), rows=2, sharex=True, sharey="row")
    for (upper, lower), (stages, group) in zip(axes.T, columns, strict=True):
        shown = epochs[(epochs["num_stages"] == 1) | (epochs["group_size"] == group)]
        _draw_curves(upper, shown, "val_accuracy")
        _draw_curves(lower, shown, "train_loss")
        upper.set(title=_partition(stages, group), xlabel="", ylabel="")
        lower.set(xlabel="epoch", ylabel="")
        style.log_ticks(lower, (1, 2, 5))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    low, high = axes[1, 0].get_ylim()
    if high < 4 * low:
        axes[1, 0].yaxis.set_major_locator(MaxNLocator(5))  # 1, 2 and 5 would leave a tick or two
    axes[0, 0].set_ylabel("validation accuracy (%)")
    axes[1, 0].set_ylabel(_LOSS)
    handles = style.handles(epochs["strategy"], marker="")
    if (epochs["status"] == "diverged").any():
        handles.append(style.handle("diverged after here", color="#444444", **_CROSS))
    style.legend(figure, handles, columns=7)
    style.note(figure, _curve_note(records, network) + ceiling)
    return figure


def _partition(num_stages: int, group_size: int) -> str:
    units = f"up to {group_size} units" if group_size > 1 else "1 unit"
    return f"{num_stages} stages ({units} each)"


def _epochs(records: Records, network: str) -> pd.DataFrame:
    status = records.runs[[*RUN, "status", "num_stages"]]
    epochs = records.epochs[records.epochs["network"] == network].merge(status, on=RUN)
    return epochs.assign(epoch=epochs["epoch"] + 1, val_accuracy=100 * epochs["val_accuracy"])


def _capped(epochs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Losses of diverging runs (up to 1e30) cut at ten times the largest other loss, and the sentence that says so."""
    ceiling = 10 * epochs.loc[epochs["status"] == "completed", "train_loss"].max()
    if not (epochs["train_loss"] > ceiling).any():
        return epochs, ""
    capped = epochs.assign(train_loss=epochs["train_loss"].clip(upper=ceiling))
    return capped, f"\nTraining losses above {ceiling:.2g} nats (diverging runs) are drawn at that value."


def _draw_curves(axis: Any, epochs: pd.DataFrame, measure: str) -> None:
    done = epochs[epochs["status"] == "completed"]
    names = ordered(done["strategy"])
    hues = {"hue": "strategy", "hue_order": names, "palette": {name: look(name).colour for name in names}}
    dashes = {name: look(name).dash[1] or "" for name in names}
    band = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.13, "linewidth": 0}}
    styles: dict[str, Any] = {"style": "strategy", "style_order": names, "dashes": dashes, "legend": False}
    sns.lineplot(done, x="epoch", y=measure, ax=axis, **hues, **styles, **band)
    for (strategy, _), run in epochs[epochs["status"] == "diverged"].groupby(["strategy", "seed"]):
        finite = run[run[measure].notna()].sort_values("epoch")
        looks = look(strategy)
        axis.plot(finite["epoch"], finite[measure], color=looks.colour, linestyle=looks.dash, linewidth=0.7)
        axis.plot(finite["epoch"].tail(1), finite[measure].tail(1), **_CROSS, color=looks.colour)


_CROSS: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 5, "markeredgewidth": 1.4, "zorder": 5}


def _curve_note(records: Records, network: str) -> str:
    runs = records.runs[(records.runs["network"] == network) & (records.runs["status"] == "completed")]
    where = setting(records.dataset, records.convention)
    return f"Lines: mean of the completed runs, n = {_counted(runs)} seeds; bands: their range. {where}"


def _counted(runs: pd.DataFrame) -> str:
    return span(runs.groupby(["network", "group_size", "strategy"])["seed"].nunique())


@report.figure("final_accuracy")
def final_accuracy(records: Records) -> Figure:
    """Final test accuracy: every run a dot, with mean and range; diverged runs counted below a line."""
    runs = records.runs.assign(percent=100 * records.runs["test_accuracy"])
    done = runs[runs["status"] == "completed"]
    figure, axes = style.panels(records.networks, 3.0, "stages", "test accuracy (%)", sharey=False)
    for network, axis in axes.items():
        mine = runs[runs["network"] == network]
        _draw_baseline(axis, mine[mine["num_stages"] == 1])
        _draw_partitions(axis, mine[mine["num_stages"] > 1])
    style.legend(figure, style.handles(runs["strategy"], linestyle=""), columns=6)
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
    axis.set_xticks(range(len(depths)), [str(k) for k in depths])
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
