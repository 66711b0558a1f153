"""How the default experiment's learning rates were chosen: validation accuracy at every rate that was tried."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from layerpipe2.lab.judging.searches import chosen_trials, rate_means
from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.records.training import Records
from paper_figures.text import span

_CHOSEN = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "color": "#cc3311", "markeredgewidth": 1.2}


def rates(records: Records) -> Figure:
    """Mean validation accuracy over the rate, a line per strategy; a line ends where one of its runs diverged."""
    trials = records.tuning
    assert trials is not None, "the catalogue has this figure of tuned experiments alone"
    means, best = rate_means(trials), chosen_trials(trials)
    with style.context():
        figure, panels = style.panels(records.networks, 2.3, "learning rate", "validation accuracy (%)")
        for network, axis in panels.items():
            for name in ordered(trials["strategy"]):
                mine, chosen = (
                    table[(table["network"] == network) & (table["strategy"] == name)].sort_values("lr")
                    for table in (means, best)
                )
                axis.plot(mine["lr"], 100 * mine["val_accuracy"], **style.line(name, markersize=3))
                axis.plot(chosen["lr"], 100 * chosen["val_accuracy"], linestyle="", **_CHOSEN)
            _logarithmic(axis)
        handles = [*style.handles(trials["strategy"]), style.handle("chosen", linestyle="", **_CHOSEN)]
        style.legend(figure, handles, columns=7)
        style.note(figure, _note(trials))
        return figure


def _note(trials: pd.DataFrame) -> str:
    runs = trials.groupby(["network", "strategy", "lr"]).size()
    counts = trials["status"].value_counts()
    told = ", ".join(f"{counts[word]} {word}" for word in ("completed", "pruned", "diverged") if word in counts)
    return (
        f"Points: mean of n = {span(runs, '{:.0f}'.format)} runs at each network's largest number of stages, where all "
        f"completed. All trials: {told}."
    )


def _logarithmic(axis: Any) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_locator(NullLocator())
