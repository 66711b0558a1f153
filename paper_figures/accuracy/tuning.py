"""How learning rates were chosen: validation accuracy at every rate that was tried, and the choices."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.searches import chosen_trials, rate_means
from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import Records
from paper_figures.style import labels
from paper_figures.text import network_label, plural, span


def chosen_rates(trials: pd.DataFrame, networks: list[str]) -> pd.DataFrame:
    """The learning rate that each strategy's study chose on each network; an asterisk: at an end of its last range."""
    best = chosen_trials(trials)
    rate = {(r.network, r.strategy): f"{r.lr:.3g}{'*' * bool(r.edge)}" for r in best.itertuples()}
    names = ordered(best["strategy"])
    columns = {network_label(one): [rate.get((one, name), "none") for name in names] for one in networks}
    return pd.DataFrame({"strategy": labels(names)} | columns)


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


_CHOSEN = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "color": "#cc3311", "markeredgewidth": 1.2}


def _knows_accuracies(records: Records) -> bool:
    return records.tuning is not None and "val_accuracy" in records.tuning


@report.figure("tuning_rates", data="results/tuning.csv", when=_knows_accuracies)
def rates(records: Records) -> Figure:
    """Mean validation accuracy over the rate, a line per strategy; a line ends where one of its runs diverged."""
    trials = records.tuning
    assert trials is not None  # _knows_accuracies
    means, best = rate_means(trials), chosen_trials(trials)
    figure, panels = style.panels(records.networks, 2.3, "learning rate", "validation accuracy (%)")
    for network, axis in panels.items():
        for name in ordered(trials["strategy"]):
            mine, chosen = (
                table[(table["network"] == network) & (table["strategy"] == name)].sort_values("lr")
                for table in (means, best)
            )
            axis.plot(mine["lr"], 100 * mine["val_accuracy"], **style.line(name, markersize=3))
            axis.plot(chosen["lr"], 100 * chosen["val_accuracy"], linestyle="", **_CHOSEN)
        axis.margins(y=0.12)  # the rings are larger than their points
        style.log_ticks(axis, (1, 3), "x")
    handles = [*style.handles(trials["strategy"]), style.handle("chosen", linestyle="", **_CHOSEN)]
    style.legend(figure, handles, 7, "Which learning rate each strategy chose")
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
