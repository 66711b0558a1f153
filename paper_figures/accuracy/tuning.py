"""How learning rates were chosen: validation accuracy at every rate that was tried, and the choices."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.judging.searches import chosen_trials, rate_means
from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import Records
from paper_figures.style import labels
from paper_figures.text import network_label, plural, span


def chosen_rates(trials: pd.DataFrame, networks: list[str]) -> pd.DataFrame:
    """The learning rate that each strategy's study chose on each network.

    An asterisk: at an end of its last range, or of the list that all have tried.
    """
    best, ends = chosen_trials(trials), list_ends(trials)
    rate = {(r.network, r.strategy): f"{r.lr:.3g}{'*' * bool(r.edge or r.lr in ends)}" for r in best.itertuples()}
    names = ordered(best["strategy"])
    columns = {network_label(one): [rate.get((one, name), "none") for name in names] for one in networks}
    return pd.DataFrame({"strategy": labels(names)} | columns)


def list_ends(trials: pd.DataFrame) -> dict[float, str]:
    """``lowest`` and ``highest``, by rate, of the list that all studies have tried; empty if they share none."""
    tried = trials.groupby(["network", "strategy"])["lr"].agg(frozenset)
    shared = len(tried) > 1 and tried.nunique() == 1
    return {trials["lr"].min(): "lowest", trials["lr"].max(): "highest"} if shared else {}


@report.value
def tuned(records: Records) -> dict[str, Any] | None:
    """The studies in a sentence, and what they chose; None if there were none."""
    trials = records.tuning
    if trials is None:
        return None
    counts = trials["status"].value_counts()
    first = trials[trials["round"] == 0].groupby(["network", "strategy"])
    rates, seeds = int(first["lr"].nunique().max()), int(first["trial"].size().max() / first["lr"].nunique().max())
    moved = trials[trials["round"] > 0].groupby(["network", "strategy"]).ngroups
    sentence = (
        f"Optuna tried {rates} learning rates for every strategy on every network, with {plural(seeds, 'seed')} that "
        "no final run has; the best mean validation accuracy at the end of a run was chosen, of the rates at which no "
        "run diverged. No test image was looked at. The rates, seeds and pruner are the same for all. Of "
        f"{len(trials)} trials {counts.get('diverged', 0)} diverged and {counts.get('pruned', 0)} were stopped early."
    )
    if moved:
        sentence += f" For {moved} of {first.ngroups} the range was moved, as its best value lay at an end of it; an "
        sentence += "asterisk marks what lies at an end even so."
    return {"sentence": sentence, "table": chosen_rates(trials, records.networks)}


_CLOSE = 0.01
"""Validation accuracy below a strategy's best up to which a learning rate does about as well."""


def _knows_accuracies(records: Records) -> bool:
    return records.tuning is not None and "val_accuracy" in records.tuning


@report.figure("tuning_rates", data="results/tuning.csv", when=_knows_accuracies)
def rates(records: Records) -> Figure:
    """A row per strategy: the rate it chose, and from which to which rate it is within a point of its best."""
    trials = records.tuning
    assert trials is not None  # _knows_accuracies
    means, best = rate_means(trials), chosen_trials(trials)
    names = ordered(trials["strategy"])
    figure, panels = style.panels(records.networks, 1.25 + 0.17 * len(names), "learning rate (log scale)", "")
    for network, axis in panels.items():
        mine = means[means["network"] == network]
        chosen = best[best["network"] == network].set_index("strategy")["lr"]
        for place, name in enumerate(names):
            _draw_rates(axis, place, mine[mine["strategy"] == name], chosen.get(name), name)
        axis.set_yticks(range(len(names)), labels(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        style.log_ticks(axis, (1, 2, 5) if mine["lr"].max() < 30 * mine["lr"].min() else (1, 3), "x")
    style.title(figure, "Which learning rate each strategy chose, and how far it could be moved")
    style.note(figure, _note(trials))
    return figure


def _draw_rates(axis: Any, place: int, means: pd.DataFrame, chosen: float | None, strategy: str) -> None:
    colour = style.line(strategy)["color"]
    axis.plot(means["lr"], [place] * len(means), "|", color="#999999", markersize=3, zorder=2)
    close = means.loc[means["val_accuracy"] >= means["val_accuracy"].max() - _CLOSE, "lr"]
    axis.plot([close.min(), close.max()], [place, place], color=colour, alpha=0.4, linewidth=5, solid_capstyle="butt")
    if chosen is not None:
        mark = "o" if strategy == SEQUENTIAL else style.line(strategy)["marker"]
        axis.plot(chosen, place, marker=mark, color=colour, markersize=5, linestyle="", zorder=3)


def _note(trials: pd.DataFrame) -> str:
    runs = trials.groupby(["network", "strategy", "lr"]).size()
    counts = trials["status"].value_counts()
    told = ", ".join(f"{counts[word]} trials {word}" for word in ("completed", "pruned", "diverged") if word in counts)
    return (
        "Mark: the rate chosen. Bar: from the least to the largest rate with a validation accuracy at most "
        f"{100 * _CLOSE:g} point below\nthe strategy's best; no bar: only the chosen one is. Ticks: rates at which all "
        f"of n = {span(runs, '{:.0f}'.format)} runs completed (means over them),\n"
        f"at each network's largest number of stages. {told[0].upper()}{told[1:]}."
    )
