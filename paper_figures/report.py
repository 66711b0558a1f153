"""The report: verdicts, evidence, then what is not reproduced and not known. Every number is computed."""

from __future__ import annotations

import pandas as pd

from paper_figures import report_theory, tables
from paper_figures.claims import Claim, comparisons, sentences, word
from paper_figures.claims import costs as claims_costs
from paper_figures.claims import structure as claims_structure
from paper_figures.claims import theory as claims_theory
from paper_figures.claims import training as claims_training
from paper_figures.claims.equivalence import Settings
from paper_figures.labels import convention_label, dataset_label, network_label
from paper_figures.records import Records
from paper_figures.render import Block, Bullets, Heading, Image, Table, Text
from paper_figures.style import ordered, style
from paper_figures.theory_records import Theory


def claims(records: Records, theory: Theory, settings: Settings) -> list[Claim]:
    """One verdict per claim, from the runs' records, from the tables of the theory, or from both."""
    return [
        claims_structure.structure_alone(records, theory),
        claims_structure.downstream_stages(records, theory),
        claims_structure.shared_delay(records, theory),
        claims_theory.formal_derivation(theory),
        claims_structure.memory_cost(records, theory),
        claims_training.reconstruction_keeps_accuracy(records, settings),
        claims_costs.trade_off(theory.partitions),
        claims_training.kinds_of_networks(records, settings),
    ]


def report(records: Records, theory: Theory, settings: Settings) -> list[Block]:
    """The whole report as blocks."""
    found = claims(records, theory, settings)
    return [
        Heading("LayerPipe2: what these runs reproduce", 1),
        Text(_setting(records)),
        Heading("Verdicts"),
        Table(verdict_table(found)),
        *[block for claim in found for block in _claim(claim)],
        Heading("Figures of the training runs"),
        *_images(records),
        *report_theory.derivation(theory),
        *report_theory.stability(records),
        *report_theory.costs(),
        *report_theory.schedules(theory),
        *_own(records, settings),
        Heading("Tables"),
        Text("Final test accuracy; diverged runs are counted, not averaged.", "Accuracy."),
        Table(tables.accuracy_for_readers(tables.accuracy(records))),
        Text(_equivalence_text(settings), "Each reconstruction against exact stashing."),
        Table(equivalence_for_readers(comparisons.cells(records, settings))),
        Text("Modelled copies of the parameters beside the latest ones.", "Memory."),
        Table(tables.for_readers(tables.memory(records))),
        Heading("Not reproduced, and not known"),
        Bullets(_limits(records, settings)),
    ]


def _own(records: Records, settings: Settings) -> list[Block]:
    """This project's own reconstruction, apart from the paper's family and from its verdicts."""
    table = comparisons.own_cells(records, settings)
    if table.empty:
        return []
    return [
        Heading("This project's own reconstruction, not the paper's"),
        Text(
            "`pair` uses what the optimizer keeps anyway: besides a moving average the newest update, both weighted "
            "for the least squared error at the delay. It is no part of C6; its comparisons by partition are corrected "
            "together with those of the paper's family."
        ),
        Bullets(sentences.own_sentences(records, settings)),
        Table(equivalence_for_readers(table, verdicts=False)),
    ]


def verdict_table(found: list[Claim]) -> pd.DataFrame:
    """Claim, statement and verdict with its caveat."""
    rows = [(claim.key, claim.statement, claim.told) for claim in found]
    return pd.DataFrame(rows, columns=["claim", "statement", "verdict"])


def _claim(claim: Claim) -> list[Block]:
    return [
        Heading(f"{claim.key}: {claim.told}", 3),
        Text(claim.statement, "Claim."),
        Text(claim.test, "Test."),
        Bullets(claim.evidence),
    ]


def _epochs(records: Records) -> str:
    """Epochs by network, as far as they differ."""
    lengths = records.epochs.groupby("network")["epoch"].max() + 1
    if lengths.nunique() == 1:
        return str(lengths.iloc[0])
    return ", ".join(f"{network_label(name)} {lengths[name]}" for name in records.networks if name in lengths)


def _setting(records: Records) -> str:
    runs = records.runs
    diverged = int((runs["status"] == "diverged").sum())
    networks = ", ".join(network_label(name) for name in records.networks)
    strategies = ", ".join(style(name).label for name in ordered(runs["strategy"]))
    return (
        f"{len(runs)} training runs, {diverged} of which diverged, on {dataset_label(records.dataset)} "
        f"({_values(runs, 'test_images')} test images). Networks: {networks}. Strategies: {strategies}. Seeds: "
        f"{runs['seed'].nunique()}. Epochs: {_epochs(records)}. "
        f"Optimizer: {_values(runs, 'optimizer')}; momentum: {_by_network(records, 'momentum')}; {_rates(records)}. "
        f"Delay convention: {convention_label(records.convention)}, where S is the "
        "number of downstream stages."
    )


def _rates(records: Records) -> str:
    one = (records.runs.groupby("network")["lr"].nunique() == 1).all()
    same = "the same for all strategies" if one else "not the same for all runs"
    return f"learning rate, {same}: {_by_network(records, 'lr')}"


def _by_network(records: Records, column: str) -> str:
    found = {name: _values(records.runs[records.runs["network"] == name], column) for name in records.networks}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{network_label(name)} {values}" for name, values in found.items())


def _values(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in sorted(runs[column].dropna().unique()))


def _images(records: Records) -> list[Block]:
    curves = [
        Image(
            f"curves_{name}",
            f"{network_label(name)}: validation accuracy and training loss against epoch; columns are partitions.",
        )
        for name in records.networks
    ]
    return [
        Image("final_accuracy", "Final test accuracy by network, number of stages and strategy."),
        Image("delays", "Delay of every unit for each group size, in optimizer updates."),
        *curves,
        Image("reconstruction", "Error of the reconstructed weights relative to the latest ones, against the delay."),
        Image("memory", "Weight-history memory that a strategy needs, in copies of the parameters (modelled)."),
    ]


def _equivalence_text(settings: Settings) -> str:
    return (
        f"Difference of test accuracy in points, paired by seed, with its {100 * (1 - 2 * settings.level):g} % "
        f"interval; p of the test of equivalence within {settings.margin:g} points, Holm-corrected over this table. "
        "Test-image error: about how far the difference would move on other test images of the same number; a verdict "
        "needs a margin above it. With few seeds a row is hardly ever decided: the verdicts above pool partitions."
    )


def equivalence_for_readers(table: pd.DataFrame, verdicts: bool = True) -> pd.DataFrame:
    """The table of comparisons with difference and interval in one cell, and the verdict in words or the outcome."""
    rows = table.to_dict("records")
    cells = [_difference(row["mean"], row["low"], row["high"], row["n"]) for row in rows]
    shown = table[["network", "num_stages", "strategy", "n", "lost"]].assign(
        difference=cells,
        p_equivalent=[tables.number(3)(row["p_equivalent"]) for row in rows],
        image_error=[tables.number(2)(row["image_error"]) for row in rows],
        verdict=[word(row["outcome"], row["n"]) if verdicts else row["outcome"] for row in rows],
    )
    names = {"num_stages": "stages", "lost": "diverged alone", "p_equivalent": "p (equivalence)"}
    names |= {"image_error": "test-image error (points)", "difference": "difference (points)"}
    names |= {} if verdicts else {"verdict": "outcome"}
    return tables.for_readers(shown, {column: (name, str) for column, name in names.items()})


def _difference(mean: float, low: float, high: float, n: int) -> str:
    if n == 0:
        return "–"
    return _signed(mean) + (f" [{_signed(low)}, {_signed(high)}]" if n > 1 else "")


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # no -0.00


def _limits(records: Records, settings: Settings) -> list[str]:
    own = ("resnet18" in records.networks) and records.dataset == "cifar100"
    networks = ", ".join(network_label(name) for name in records.networks)
    experiment = (
        "The paper's experiment was ResNet-18 on CIFAR-100. "
        + ("That pair is among these runs" if own else f"These runs are {networks} on {dataset_label(records.dataset)}")
        + "; its figures' values are not known, so no number here is compared with a number of the paper."
    )
    stash = 100 * records.runs.loc[records.runs["strategy"] == "stash", "test_accuracy"].mean()
    return [
        experiment,
        f"A margin of {settings.margin:g} points is wide: exact stashing makes {100 - stash:.1f} errors per 100 images "
        f"on average, so that within the margin {100 * settings.margin / (100 - stash):.0f} % more are allowed.",
        "Learning rates and momenta were chosen on validation data with exact stashing (params.yaml says how), which "
        "can favour it a little, and by what lets it train through the largest delay.",
        "Not tested by this report: spiking networks (the third part of C8).",
        "Not known of the paper: number of stages, epochs, learning rate, batch size, optimizer, schedule, warm-up and "
        "the exact decay formula. The hyper-parameters here are this project's own; several decay rules are measured.",
        "Delays are simulated in one process: nothing here measures speed, communication or memory of real hardware. "
        "Costs and schedules are modelled on devices that this project declares. Pipelines of several processes are "
        "measured on a page of their own, pipelines/pipelines.md beside this one.",
        "The seeds vary initial weights and batch order on one split of one data set; the verdicts hold for its test "
        "images and these training budgets, and equivalence means 'within the margin', not 'equal'.",
    ]
