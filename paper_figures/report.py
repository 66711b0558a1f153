"""The report: verdicts on the abstract's claims, evidence, then what is not reproduced and not known.

Its figures, tables, claims and values stand with their questions; here are its records, and what was trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures import records as training
from paper_figures import theory as tables
from paper_figures.accuracy import original
from paper_figures.accuracy.assay import Assay
from paper_figures.page import report
from paper_figures.pipelines import regimes
from paper_figures.pipelines.regimes import Regimes
from paper_figures.records import Records
from paper_figures.style import labels
from paper_figures.text import amount, dataset_label, law_label, network_label, percent, setting
from paper_figures.theory import Theory


@report.records
def load(results: Path) -> dict[str, Any]:
    """Read the default experiment, the theory, and the map of pipelines if there is one.

    Raises:
        UserError: if something is missing or broken.
    """
    records, theory = training.load(results), tables.load(results / "theory")
    settings = ComparisonSettings.of(records.experiment)
    measured = regimes.load(results / "pipelines" / "map")
    return known(records, theory, settings, measured, original.answers(results))


def known(
    records: Records,
    theory: Theory,
    settings: ComparisonSettings,
    measured: Regimes | None = None,
    originals: Sequence[str] = (),
) -> dict[str, Any]:
    """What all parts of the report ask for by name; ``originals`` says what the paper's network and data gave."""
    found = {"records": records, "theory": theory, "settings": settings, "regimes": measured, "level": settings.level}
    return {**found, **vars(theory), "networks": records.networks, "originals": originals}


@report.value
def judged(records: Records, settings: ComparisonSettings) -> Assay:
    """The cells of the default experiment."""
    return Assay.of(records.all_runs, settings, records.examples)


@report.value
def where(records: Records) -> str:
    """What every result must be read with."""
    return setting(records.dataset, records.convention)


@report.value
def setup(records: Records, settings: ComparisonSettings) -> dict[str, Any]:
    """What was trained, and what the tests demand."""
    runs = records.runs
    return {
        "name": records.experiment.get("name", records.dataset),
        "runs": len(records.all_runs),
        "diverged": int((records.all_runs["status"] == "diverged").sum()),
        "dataset": dataset_label(records.dataset),
        "test_images": _values(runs, "test_images"),
        "networks": ", ".join(network_label(name) for name in records.networks),
        "strategies": ", ".join(labels(runs["strategy"])),
        "seeds": records.all_runs["seed"].nunique(),
        "epochs": _epochs(records),
        "optimizer": _values(runs, "optimizer"),
        "momentum": _by_network(records, "momentum"),
        "one_rate": (runs.groupby("network")["lr"].nunique() == 1).all(),
        "rates": _by_network(records, "lr"),
        "law": law_label(records.convention),
        "curves": [(name, network_label(name)) for name in records.networks],
        "by_share": settings.least_share is not None,
        "least_share": percent(settings.least_share or 0.0),
        "interval": f"{100 * (1 - 2 * settings.level):g}",
        "margin": amount(settings.margin, settings.unit),
        "paper_pair": original.is_original(records),
    }


def _epochs(records: Records) -> str:
    """Epochs by network, as far as they differ."""
    lengths = records.epochs.groupby("network")["epoch"].max() + 1
    return _once({name: str(lengths[name]) for name in records.networks if name in lengths})


def _by_network(records: Records, column: str) -> str:
    return _once({name: _values(records.runs[records.runs["network"] == name], column) for name in records.networks})


def _once(found: dict[str, str]) -> str:
    """Network -> value; one text if they do not differ."""
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{network_label(name)} {value}" for name, value in found.items())


def _values(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in sorted(runs[column].dropna().unique()))
