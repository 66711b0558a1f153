"""The evidence cell by cell: what no history costs in each, who loses nothing there, and other tests of the same."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import CELL
from layerpipe2.lab.judging.statistics import holm
from paper_figures.accuracy.assay import NEEDED, Assay, failed, few, in_place_of_a_verdict, long_name, verdict_table
from paper_figures.accuracy.evidence import COSTS, evidence, named
from paper_figures.records import Records
from paper_figures.text import listed
from paper_figures.verdicts import OUTCOMES, Answer

LEAST_SHARE = 0.75
"""What a strategy must win back by the rule of the default study."""


@evidence.value
def shared(confirmed: Mapping[str, Records]) -> Assay | None:
    """The same cells by the rule of the default study, written after most of these runs; None if none has accuracies.

    Each keeps the margin that its experiment has declared: their searches have one seed, which tells no spread.
    """
    points = [records for records in confirmed.values() if ComparisonSettings.of(records.experiment).unit == "points"]
    if not points:
        return None
    settings = replace(ComparisonSettings.of(points[0].experiment), least_share=LEAST_SHARE, image_guard=False)
    runs = pd.concat([records.runs for records in points], ignore_index=True)
    return Assay.of(runs.drop_duplicates([*CELL, "strategy", "seed"]), settings, name=long_name)


@evidence.value
def by_share(shared: Assay | None) -> pd.DataFrame | None:
    """The verdicts by that rule."""
    return None if shared is None else verdict_table(shared)


@evidence.value
def over_all(tuned: Assay, level: float) -> dict[str, int]:
    """How many cells keep their verdict when Holm's correction runs over all cells, not only those of an experiment."""
    kept = {"needed": "sensitive", "not_needed": "needless"}
    return {
        name: int((tuned.costs[kind].astype(bool) & (holm(tuned.costs[f"p_{kind}"]) < level)).sum())
        for name, kind in kept.items()
    }


@evidence.value
def kept_rate(common: Assay) -> str:
    """Where the latest weights diverge at a rate that all pipelines share; empty if nowhere."""
    lost = common.costs[common.costs["diverged_latest"] > 0].itertuples()
    return listed([f"{r.diverged_latest} of {r.seeds} ({r.cell.removesuffix(', one rate')})" for r in lost])


@evidence.value
def failures(shared: Assay | None, level: float) -> list[str]:
    """A line per cell with strategies' own rates in which a run failed: whether the latest weights fail more often."""
    if shared is None:
        return []
    table = shared.costs[shared.costs["diverged_latest"] + shared.costs["diverged_stash"] > 0]
    return [
        _failures(row, "shown" if row["p_diverges"] < level / 2 else "not shown") for row in table.to_dict("records")
    ]


def _failures(row: Mapping[str, Any], shown: str) -> str:
    counts = f"{row['diverged_latest']} of {row['seeds']} with the latest weights, {row['diverged_stash']} with stash"
    return f"{row['cell']}: {counts}; {shown} (p = {row['p_diverges']:.2g})"


@evidence.value
def cell_table(tuned: Assay, confirmed: Mapping[str, Records]) -> pd.DataFrame:
    """A row per cell for readers, those that need a history first: what it costs, and which strategies do without."""
    rows, kept = [], _copies_of_stash(confirmed.values())
    for row in tuned.costs.sort_values(["sensitive", "needless"], ascending=False, kind="stable").to_dict("records"):
        mine = tuned.sensitive.within(cell=row["cell"]).rules
        found = {name: OUTCOMES.get(outcome) for name, outcome in zip(mine["strategy"], mine["outcome"], strict=True)}
        rows.append(
            {
                "cell": row["cell"],
                COSTS["delay"]: f"{row['delay']:+.2f} {row['unit']}{few(row)}",
                COSTS["inconsistency"]: f"{row['inconsistency']:+.2f} {row['unit']}{failed(row)}",
                "a history is": in_place_of_a_verdict(row) or NEEDED,
                "stash keeps": f"{kept[row['cell']]:.1f} copies",
                "lose less than the margin": "; ".join(named(found, Answer.YES)) or "–",
                "lose more": "; ".join(named(found, Answer.NO)) or "–",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _copies_of_stash(every: Iterable[Records]) -> dict[str, float]:
    """Copies of the weights that exact stashing keeps beside the latest ones, in each cell."""
    runs = pd.concat([one.all_runs.query("strategy == 'stash'") for one in every], ignore_index=True)
    return {long_name(row): row["history_copies"] for row in runs.to_dict("records")}
