"""Coarse searches: test accuracy or loss against the learning rate, a panel per network, optimizer and depth."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import scored
from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.accuracy.evidence import evidence
from paper_figures.records import Records
from paper_figures.text import dataset_label, network_label, optimizer_label, span


@evidence.figure("screening", when=lambda screens: screens)
def screening(screens: Mapping[str, Records]) -> Figure:
    """Mean score of every strategy; runs that diverged score what guessing does."""
    panels = [panel for records in screens.values() for panel in _panels(records)]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    runs = pd.concat([table for _, _, table in panels])
    figure, axes = style.canvas(0.9 + 1.45 * rows, columns, rows, len(panels))
    for (title, label, table), axis in zip(panels, axes.flat, strict=False):
        for name in ordered(table["strategy"]):
            mean = table[table["strategy"] == name].groupby("lr")["score"].mean()
            axis.plot(mean.index, mean.to_numpy(), **style.line(name, markersize=3))
        axis.set(xscale="log", xlabel="peak learning rate", ylabel=label)
        axis.set_title(title, fontsize=6.5)
    style.legend(figure, style.handles(runs["strategy"]), columns=5)
    cell = ["network", "optimizer", "momentum", "num_stages", "lr", "strategy"]
    seeds = span(runs.groupby(cell, dropna=False)["seed"].nunique())
    style.note(
        figure,
        f"Mean of n = {seeds} seeds; a run that diverged counts as guessing. "
        "Of accuracies more is better, of losses less.",
    )
    return figure


def _panels(records: Records) -> list[tuple[str, str, pd.DataFrame]]:
    settings = ComparisonSettings.of(records.experiment)
    runs = scored(records.runs, settings)
    sign, label = (-1, "test loss (nats)") if settings.unit == "nats" else (1, "test accuracy (%)")
    runs = runs.assign(score=sign * runs["score"].fillna(runs["guess"]))
    found = []
    for (optimizer, momentum), mine in runs.groupby(["optimizer", "momentum"], dropna=False, sort=False):
        how = optimizer_label(str(optimizer), float(momentum))
        for stages in sorted(set(mine["num_stages"]) - {1}):
            where = f"{stages} stages, {dataset_label(records.dataset).split(',')[0]}"
            shown = mine[mine["num_stages"].isin([1, stages])]
            found.append((f"{network_label(mine['network'].iloc[0])}, {how}\n{where}", label, shown))
    return found
