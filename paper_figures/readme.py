"""The result table and figure of README.md, between two markers, made from the records."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from paper_figures import markers, tables
from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, comparisons, training
from paper_figures.claims.equivalence import Settings, pipeline_aware
from paper_figures.claims.sentences import interval
from paper_figures.labels import convention_label, dataset_label, network_label
from paper_figures.records import Records
from paper_figures.report import claims
from paper_figures.style import ordered, style
from paper_figures.theory_records import Theory

NAME = "results"
"""Of the markers between which the results stand."""


def headline(records: Records) -> pd.DataFrame:
    """Test accuracy at the deepest pipeline of each network, strategies by networks, with the modelled copies.

    A number of seeds that all cells share (:func:`seeds`) is left to the caption.
    """
    accuracy, memory = tables.accuracy(records), tables.memory(records)
    shared = f" (n={seeds(accuracy)})"
    columns: dict[str, dict[str, str]] = {}
    for network in records.networks:
        mine = accuracy[accuracy["network"] == network]
        deepest = mine[mine["stages"].isin([1, mine["stages"].max()])]
        name = f"{network_label(network)}, {mine['stages'].max()} stages"
        columns[name] = {
            row["strategy"]: tables.mean_spread(row["mean"], row["sd"], row["n"], row["diverged"]).removesuffix(shared)
            for row in deepest.to_dict("records")
        }
    deepest_stages = memory.groupby("network")["stages"].transform("max")
    shown = memory[memory["stages"].isin([1]) | (memory["stages"] == deepest_stages)]
    most = shown.groupby("strategy")["copies"].max()
    rows = ordered({strategy for cells in columns.values() for strategy in cells})
    cells = {name: [column.get(strategy, "–") for strategy in rows] for name, column in columns.items()}
    table = pd.DataFrame({"strategy": [style(s).label for s in rows], **cells}, dtype=object)
    return table.assign(**{"copies of the weights": [f"{most[s]:.1f}" for s in rows]})


def seeds(accuracy: pd.DataFrame) -> int | None:
    """Completed runs behind every mean of :func:`tables.accuracy`, if it is one number and no run diverged."""
    counts = set(accuracy["n"])
    return int(counts.pop()) if len(counts) == 1 and not accuracy["diverged"].any() else None


def answer(records: Records, settings: Settings) -> str:
    """The question of the README in one sentence."""
    claim = training.reconstruction_keeps_accuracy(records, settings)
    word = {REPRODUCED: "yes", NOT_REPRODUCED: "no"}.get(claim.verdict, "not decided")
    most = tables.memory(records).groupby("strategy")["copies"].max()
    average = max((most[name] for name in pipeline_aware(list(most.index))), default=0.0)
    deep = comparisons.deepest(records, settings).set_index("strategy")
    without = ""
    if "latest" in deep.index and deep.loc["latest", "n"] > 1:
        row = deep.loc["latest"]
        without = (
            f" Without any history the deepest pipelines change by {row['mean']:+.2f} points against stashing"
            f"{interval(row, settings)}."
        )
    return (
        f"**Here: {word}**, within {settings.margin:g} points of test accuracy: a moving average keeps {average:.1f} "
        f"copies of the weights where stashing keeps up to {most.get('stash', 0.0):.1f}.{without}"
    )


def section(records: Records, theory: Theory, settings: Settings, figures: str, report: str) -> str:
    """What stands between the markers; ``figures`` and ``report`` are paths relative to the README."""
    count = seeds(tables.accuracy(records))
    n = "n" if count is None else f"n = {count}"
    verdicts = ", ".join(f"{claim.key} {claim.told}" for claim in claims(records, theory, settings))
    return (
        f"{answer(records, settings)}\n\n"
        f"Test accuracy in per cent on {dataset_label(records.dataset)}, mean ± SD over {n} seeds, at each network's "
        f"deepest pipeline (delays: {convention_label(records.convention)}; 'sequential' has one stage). Copies: "
        "modelled weight history beside the latest weights, the largest over the networks.\n\n"
        f"{tables.markdown(headline(records))}\n"
        f"![Final test accuracy by network, number of stages and strategy]({figures}/final_accuracy.png)\n\n"
        f"Verdicts: {verdicts}. Tests and evidence: [{report}]({report})."
    )


def update(path: Path, records: Records, theory: Theory, settings: Settings, out: Path, check: bool) -> None:
    """Write the results into the README at ``path``, or with ``check`` only hold it against the records.

    Raises:
        UserError: as :func:`paper_figures.markers.update`.
    """
    relative = Path(os.path.relpath(out, path.parent)).as_posix()
    content = section(records, theory, settings, f"{relative}/figures", f"{relative}/report.md")
    markers.update(path, NAME, content, check=check, remedy="python -m paper_figures.build readme")
