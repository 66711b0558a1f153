"""The paper's network and data, ResNet-18 on CIFAR-100: claim C6 asked of these runs, and their learning curves.

Pages have a part on them as soon as such an experiment is published; it is judged like the default study.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import STASH
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures import records as training
from paper_figures import style
from paper_figures.accuracy.assay import Assay, costs_table, long_name, rules_table
from paper_figures.accuracy.claims import cost, reconstruction_keeps_accuracy
from paper_figures.accuracy.evidence import assay, evidence
from paper_figures.accuracy.runs import gaps_to_stash
from paper_figures.records import RUN, Records
from paper_figures.text import setting, span
from paper_figures.verdicts import Verdict

NETWORK, DATASET = "resnet18", "cifar100"
"""What the paper's experiment was, as far as it is known."""


def is_original(records: Records) -> bool:
    """Whether these are runs of the paper's network on its data."""
    return records.dataset == DATASET and NETWORK in records.networks


def verdict(records: Records) -> Verdict:
    """Claim C6, asked of these runs by the margins of their experiment."""
    found: Verdict = reconstruction_keeps_accuracy(assay(records), ComparisonSettings.of(records.experiment))
    return found


def title(records: Records) -> str:
    """``ResNet-18, width 16, CIFAR-100, momentum 0.9, 10 stages``: its deepest pipeline."""
    cell = records.runs.loc[records.runs["num_stages"].idxmax()].to_dict()
    network, rest = long_name(cell).split(", ", 1)
    return f"{network}, width {records.experiment['width']}, {rest}"


def answers(results: Path) -> list[str]:
    """What each such experiment says that is published and has two seeds: both costs, and the verdict on C6.

    Raises:
        UserError: if its tables are broken.
    """
    every = (training.load(path) for path in sorted((results / "evidence").glob("evidence-resnet18*/tables")))
    shown = [one for one in every if one.experiment["published"] and is_original(one)]
    return [_answer(one) for one in shown if len(assay(one).costs)]


def _answer(records: Records) -> str:
    costs = assay(records).costs.to_dict("records")
    said = "; ".join(
        f"{row['num_stages']} stages (n = {row['seeds']} seeds): the delay costs {cost(row, 'delay')}, doing without a "
        f"history {cost(row, 'inconsistency')}"
        for row in costs
    )
    done, planned = records.experiment["finished"], records.experiment["planned"]
    so_far = f" So far {done} of {planned} runs are done." if done < planned else ""
    return f"{title(records).rsplit(', ', 1)[0]}, {said}. C6 there: {verdict(records).word_and_caveat}.{so_far}"


@evidence.value
def originals(confirmed: Mapping[str, Records]) -> dict[str, Records]:
    """These experiments by name, without its beginning."""
    return {name.removeprefix("evidence-"): one for name, one in confirmed.items() if is_original(one)}


@evidence.value
def asked(originals: Mapping[str, Records]) -> dict[str, dict[str, Any]]:
    """What the page says of each: title, setting, verdict on C6, costs and strategies."""
    return {
        name: {
            "title": title(one),
            "verdict": verdict(one),
            "plan": one.experiment,
            "reached": reached(one),
            "rules": rules_table(assay(one)),
        }
        for name, one in originals.items()
    }


def reached(records: Records) -> pd.DataFrame:
    """A row per number of stages and strategy, for readers: its rate, mean test accuracy with its range, and n."""
    rows = []
    for (stages, name), runs in records.runs.groupby(["num_stages", "strategy"]):
        done = 100 * runs.loc[runs["status"] == "completed", "test_accuracy"]
        found = f"{done.mean():.2f} [{done.min():.2f}, {done.max():.2f}]" if len(done) else "–"
        rows.append(
            {"stages": stages, "strategy": name, "learning rate": f"{runs['lr'].iloc[0]:.3g}"}
            | {"test accuracy, mean and range (%)": found, "n": len(done), "diverged": len(runs) - len(done)}
        )
    table = records.sorted(pd.DataFrame(rows, dtype=object))
    return table.assign(strategy=[find_strategy(name).label for name in table["strategy"]])


@evidence.value
def beside(originals: Mapping[str, Records], folder: Path) -> pd.DataFrame | None:
    """What the delay and no history cost there, below the cells of the default study, if that has been collected.

    None if none of these experiments has costs.
    """
    found = [assay(one) for one in originals.values()]
    if not any(len(one.costs) for one in found):
        return None
    study = [assay(training.load(folder.parent))] if (folder.parent / "runs.csv").exists() else []
    return costs_table(Assay.joined([*study, *found]))


@evidence.table("curves_{original}", shown=None, each="original in originals")
def table(original: str, originals: Mapping[str, Records]) -> pd.DataFrame:
    """What the figure draws: :func:`curves`."""
    return curves(originals[original])


def curves(records: Records) -> pd.DataFrame:
    """Validation accuracy (per cent) of every run and epoch.

    Returns:
        Columns strategy, seed, status, epoch (from 1), percent.
    """
    found = records.epochs.merge(records.runs[[*RUN, "status"]], on=RUN)
    found = found.assign(percent=100 * found["val_accuracy"], epoch=found["epoch"] + 1)
    return found[["strategy", "seed", "status", "epoch", "percent"]]


@evidence.figure("curves_{original}", each="original in originals")
def draw(original: str, originals: Mapping[str, Records]) -> Figure:
    """Draw validation accuracy along training, and beside it that minus exact stashing's with the same seed."""
    records = originals[original]
    figure, axes = style.canvas(3.2, columns=2)
    whole, apart = axes.flat
    _lines(whole, curves(records), "percent")
    gaps = gaps_to_stash(records, NETWORK)
    _lines(apart, gaps, "gap")
    _keep_in_sight(apart, gaps)
    apart.axhline(0, color=look(STASH).colour, linewidth=1, zorder=1)
    whole.set(title="validation accuracy", ylabel="per cent")
    apart.set(title="minus that of exact stashing, same seed", ylabel="points")
    for axis in axes.flat:
        axis.set_xlabel("epoch")
        style.integer_ticks(axis)
    style.legend(figure, style.handles(records.runs["strategy"], marker=""), 6, f"Learning curves: {title(records)}")
    style.note(figure, _note(records))
    return figure


def _lines(axis: Any, table: pd.DataFrame, value: str) -> None:
    """A line per strategy with the range of its completed runs."""
    done = table[table["status"] == "completed"]
    for name in ordered(done["strategy"]):
        found = done[done["strategy"] == name].groupby("epoch")[value].agg(["mean", "min", "max"])
        looks = look(name)
        axis.fill_between(found.index, found["min"], found["max"], color=looks.colour, alpha=0.15, linewidth=0)
        axis.plot(found.index, found["mean"], color=looks.colour, linestyle=looks.dash)


def _keep_in_sight(axis: Any, gaps: pd.DataFrame) -> None:
    """The axis reaches as far as the later half of training does: the first epochs would make that a flat line."""
    late = gaps[(gaps["status"] == "completed") & (2 * gaps["epoch"] > gaps["epoch"].max())]["gap"]
    if len(late):
        room = 0.15 * (late.max() - late.min()) + 0.5
        axis.set_ylim(min(late.min(), 0) - room, max(late.max(), 0) + room)


def _note(records: Records) -> str:
    runs = records.runs
    counts = runs[runs["status"] == "completed"].groupby("strategy")["seed"].nunique()
    seeds = "1 seed" if counts.eq(1).all() else f"{span(counts)} seeds"
    lost = int((runs["status"] == "diverged").sum())
    apart = f" {lost} of {len(runs)} runs diverged and are left out." if lost else ""
    return (
        f"Lines: mean over n = {seeds} of the runs that completed; bands: their range.{apart} The right "
        f"axis is cut\nto the later half of training. {setting(records.dataset, records.convention)}"
    )
