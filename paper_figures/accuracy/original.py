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
from layerpipe2.lab.judging.outcomes import accuracy_by_group
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures import records as training
from paper_figures import style
from paper_figures.accuracy.assay import Assay, costs_table, rules_table
from paper_figures.accuracy.claims import both_costs, reconstruction_keeps_accuracy
from paper_figures.accuracy.evidence import assay, evidence
from paper_figures.accuracy.runs import draw_mean_and_range, gaps_to_stash
from paper_figures.records import RUN, Records
from paper_figures.text import dataset_label, network_label, optimizer_label, setting, span
from paper_figures.verdicts import Verdict

NETWORK, DATASET = "resnet18", "cifar100"
"""What the paper's experiment was, as far as it is known."""


def is_original(records: Records) -> bool:
    """Whether these are runs of the paper's network on its data."""
    return records.dataset == DATASET and NETWORK in records.networks


def verdict(records: Records, judged: Assay) -> Verdict:
    """Claim C6, asked of these runs by the margins of their experiment."""
    found: Verdict = reconstruction_keeps_accuracy(judged, ComparisonSettings.of(records.experiment))
    return found


def trained(records: Records) -> str:
    """``ResNet-18, width 16, CIFAR-100, momentum 0.9``."""
    run = records.runs.iloc[0]
    width, optimizer = records.experiment["width"], optimizer_label(run["optimizer"], run["momentum"])
    return f"{network_label(NETWORK)}, width {width}, {dataset_label(DATASET)}, {optimizer}"


def title(records: Records) -> str:
    """:func:`trained`, and its deepest pipeline: ``.., 10 stages``."""
    return f"{trained(records)}, {records.runs['num_stages'].max()} stages"


def answers(results: Path) -> list[str]:
    """What each such experiment says that is published and has two seeds: both costs, and the verdict on C6.

    Raises:
        UserError: if its tables are broken.
    """
    every = (training.load(path) for path in sorted((results / "evidence").glob("evidence-resnet18*/tables")))
    shown = [(one, assay(one)) for one in every if one.experiment["published"] and is_original(one)]
    return [_answer(one, judged) for one, judged in shown if len(judged.costs)]


def _answer(records: Records, judged: Assay) -> str:
    said = "; ".join(f"{row['num_stages']} stages {both_costs(row)}" for row in judged.costs.to_dict("records"))
    done, planned = records.experiment["finished"], records.experiment["planned"]
    so_far = f" So far {done} of {planned} runs are done." if done < planned else ""
    return f"{trained(records)}, {said}. C6 there: {verdict(records, judged).word_and_caveat}.{so_far}"


@evidence.value
def originals(confirmed: Mapping[str, Records]) -> dict[str, Records]:
    """These experiments by name, without its beginning."""
    return {name.removeprefix("evidence-"): one for name, one in confirmed.items() if is_original(one)}


@evidence.value
def asked(originals: Mapping[str, Records]) -> dict[str, dict[str, Any]]:
    """What is said of each: title, plan, accuracies, its cells (``judged``), verdict on C6, and strategies."""
    return {name: _asked(one, assay(one)) for name, one in originals.items()}


def _asked(records: Records, judged: Assay) -> dict[str, Any]:
    return {
        "title": title(records),
        "plan": records.experiment,
        "reached": reached(records),
        "judged": judged,
        "verdict": verdict(records, judged),
        "rules": rules_table(judged),
    }


def reached(records: Records) -> pd.DataFrame:
    """A row per number of stages and strategy, for readers: its rate, mean test accuracy with its range, and n."""
    runs = records.runs.rename(columns={"num_stages": "stages"})
    table = records.sorted(accuracy_by_group(runs, ["stages", "strategy", "lr"]).reset_index())
    rows = [
        {
            "stages": r.stages,
            "strategy": find_strategy(r.strategy).label,
            "learning rate": f"{r.lr:.3g}",
            "test accuracy, mean and range (%)": f"{r.mean_:.2f} [{r.min:.2f}, {r.max:.2f}]" if r.n else "–",
            "n": r.n,
            "diverged": r.diverged,
        }
        for r in table.rename(columns={"mean": "mean_"}).itertuples()
    ]
    return pd.DataFrame(rows, dtype=object)


@evidence.value
def beside(asked: Mapping[str, Mapping[str, Any]], folder: Path) -> pd.DataFrame | None:
    """What the delay and no history cost there, below the cells of the default study, if that has been collected.

    None if none of these experiments has costs.
    """
    found = [one["judged"] for one in asked.values()]
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
        draw_mean_and_range(axis, done[done["strategy"] == name], value, name)


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
