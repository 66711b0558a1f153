"""The report: verdicts on the abstract's claims, evidence, then what is not reproduced and not known."""

from typing import Any

import pandas as pd

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.strategies import find_strategy
from paper_figures import figures, tables
from paper_figures.claims import costs, spikepipe, structure, training
from paper_figures.claims.answers import answers
from paper_figures.claims.assay import Assay
from paper_figures.figures.reconstruction import misfit
from paper_figures.pages import Page
from paper_figures.records.regimes import Regimes
from paper_figures.records.theory import Theory
from paper_figures.records.training import Records
from paper_figures.style import labels
from paper_figures.tables import assay as assay_tables
from paper_figures.tables import theory as theory_tables
from paper_figures.tables import training as training_tables
from paper_figures.tables.training import chosen_rates
from paper_figures.text import amount, dataset_label, law_label, network_label, percent, plural
from paper_figures.verdicts import Verdict


def claims(
    records: Records, theory: Theory, judged: Assay, settings: ComparisonSettings, measured: Regimes | None
) -> list[Verdict]:
    """One verdict per claim, from the runs' records and their assay, tables of the theory, and the measured map."""
    return [
        structure.structure_alone(records, theory),
        structure.downstream_stages(records, theory),
        structure.shared_delay(records, theory),
        structure.formal_derivation(theory),
        structure.memory_cost(records, theory),
        training.reconstruction_keeps_accuracy(judged, settings),
        costs.trade_off(theory.partitions, measured),
        training.kinds_of_networks(judged),
    ]


def page(records: Records, theory: Theory, settings: ComparisonSettings, measured: Regimes | None = None) -> Page:
    """The report with all its figures and tables."""
    accuracy, judged = training_tables.accuracy(records), training.assay(records, settings)
    found = claims(records, theory, judged, settings, measured)
    exact = {"accuracy": accuracy, "assay_costs": judged.costs, "assay_rules": judged.rules}
    shown = {
        "accuracy": training_tables.accuracy_for_readers(accuracy),
        "assay_costs": assay_tables.costs(judged),
        "assay_rules": assay_tables.rules(judged),
        "proofs": theory_tables.proofs(theory),
        "partitions": theory_tables.partitions(theory),
        "schedules": theory_tables.speeds(theory),
    }
    exact |= {name: getattr(theory, name) for name in ("proofs", "partitions", "schedules")}
    for name in ("training", "delays", "memory", "reconstruction"):
        exact[name] = getattr(training_tables, name)(records)
        shown[name] = tables.for_readers(exact[name])
    rows = [(claim.key, claim.question, claim.word_and_caveat) for claim in found]
    content = {
        "claims": found,
        "verdict_table": pd.DataFrame(rows, columns=["claim", "statement", "verdict"]),
        "speeds": shown["schedules"],
        **{name: shown[name] for name in ("accuracy", "assay_costs", "assay_rules", "memory")},
        **_setting(records, settings),
        "judged": len(judged.costs) > 0,
        "answers": answers(judged),
        "by_share": settings.least_share is not None,
        "least_share": percent(settings.least_share or 0.0),
        "in_short": training.in_short(judged, settings),
        **_theory(records, theory),
    }
    drawn = figures.catalogue(records, theory, judged, settings.level)
    return Page("report", "report.md", content, found, drawn, exact, shown)


def _setting(records: Records, settings: ComparisonSettings) -> dict[str, Any]:
    """What was trained, and what the tests demand."""
    runs = records.runs
    return {
        "runs": records.all_runs,
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
        "tuned": None if records.tuning is None else _tuned(records.tuning, records.networks),
        "law": law_label(records.convention),
        "curves": [(name, network_label(name)) for name in records.networks],
        "interval": f"{100 * (1 - 2 * settings.level):g}",
        "margin": amount(settings.margin, settings.unit),
        "paper_pair": "resnet18" in records.networks and records.dataset == "cifar100",
    }


def _tuned(trials: pd.DataFrame, networks: list[str]) -> dict[str, Any]:
    """The studies in a sentence, and what they chose."""
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
    return {"sentence": sentence, "table": chosen_rates(trials, networks)}


def _theory(records: Records, theory: Theory) -> dict[str, Any]:
    """What needs no training run, and how far measurements are from it."""
    processors = theory.schedules["processors"]
    ranges = {find_strategy(name).label: bounds for name, bounds in misfit(records).items()}
    off = [f"{name} {percent(low, '+.0f')} to {percent(high, '+.0f')}" for name, (low, high) in ranges.items()]
    return {
        "proofs": theory_tables.proof_counts(theory),
        "misfit": "; ".join(off) or "none",
        "processors": f"{processors.min()} to {processors.max()}",
        "simulated": theory.schedules["network"].nunique(),
        "layerpipe": costs.layerpipe_in_our_model(theory.schedules),
        "schedule_means": theory_tables.schedule_means(theory),
        "devices": theory_tables.devices(theory),
        "spikepipe": spikepipe.in_our_model(theory.spikepipe),
        "spikepipe_speeds": theory_tables.spikepipe(theory),
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
