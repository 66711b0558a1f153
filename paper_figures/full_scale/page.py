"""The page of a campaign: verdicts first, then the evidence. Every number is computed from the records."""

from __future__ import annotations

import pandas as pd

from experiments.campaign.estimate import in_words
from paper_figures import labels
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale import comparisons, tables
from paper_figures.full_scale.records import CampaignRecords
from paper_figures.full_scale.verdicts import verdicts
from paper_figures.render import Block, Bullets, Heading, Image, Table, Text


def page(records: CampaignRecords, settings: Settings) -> list[Block]:
    """The whole page as blocks."""
    runs = records.runs
    found = verdicts(runs, settings)
    answers = pd.DataFrame(
        [(v.question, v.answer, v.conditions) for v in found], columns=["question", "answer", "where"]
    )
    title = f"{labels.network_label(_one(runs, 'network'))} on {labels.dataset_label(_one(runs, 'dataset'))}: verdicts"
    return [
        Heading(title, 1),
        *_state(records),
        Table(answers),
        Text(_method(settings), "How the answers are found."),
        Image("accuracy", "Test accuracy against the number of pipeline stages."),
        Image("differences", f"Reconstruction minus exact stashing; grey: the margin of {settings.margin:g} points."),
        Heading("Test accuracy"),
        Text("Per cent, mean ± SD over n seeds; diverged runs are counted, not averaged. Copies: modelled weight "
             "history beside the latest weights, the largest over the columns."),
        Table(tables.accuracy(records)),
        *_families(runs, settings),
        Heading("Learning rates"),
        Text("Chosen on validation accuracy from the same values for every strategy; * marks the smallest or largest "
             "value tried, beyond which a better one may lie."),
        Table(tables.chosen(records)),
        Heading("What these runs do not show"),
        Bullets(_limits(records)),
    ]  # fmt: skip


def _state(records: CampaignRecords) -> list[Block]:
    """What has been run, where and when; says it loudly if something is missing."""
    runs, profile = records.runs, records.campaign.profile
    hours = in_words(float(runs["wall_time_s"].sum()))
    commits = ", ".join(sorted({str(c)[:12] for c in runs["commit"].dropna()})) or "none recorded"
    seeds, diverged = sorted(runs["seed"].unique()), int((runs["status"] == "diverged").sum())
    text = (
        f"Profile {profile.name}: {len(runs)} final runs of {profile.settings.get('epochs', 'the default')} epochs, "
        f"seeds {', '.join(map(str, seeds))}, {diverged} diverged; {len(records.tuning)} tuning runs. Devices: "
        f"{', '.join(sorted(runs['device'].unique()))}; together {hours} of final runs. Commits: {commits}. Delays: "
        f"{labels.convention_label(_pipelined(runs, 'convention'))}."
    )
    blocks: list[Block] = [Text(text)]
    if records.finished < records.planned:
        missing = f"{records.finished} of {records.planned} runs are finished; every answer may still change."
        blocks.append(Text(missing, "Incomplete."))
    return blocks


def _method(settings: Settings) -> str:
    return (
        f"Student's t on differences paired by seed, level {settings.level:g}, Holm-corrected within each table below. "
        f"Equivalence: two one-sided tests, margin {settings.margin:g} points. 'Everywhere' is the largest p-value of "
        "a rule's cells (an intersection-union test), Holm-corrected over the rules. A rule is reproduced if it is "
        "equivalent everywhere; reproduced in part if it is shown to lose in some cells and to lose nothing in others. "
        "Seeds are the units and the test set is fixed; the column 'test-set error' bounds how far another one of the "
        "same size might move a difference. Cells in which exact stashing itself stays below half of the sequential "
        "accuracy are left out of the answers."
    )


def _families(runs: pd.DataFrame, settings: Settings) -> list[Block]:
    families = (
        ("Reconstruction against exact stashing", comparisons.against_stash, "equivalent"),
        ("Reconstruction against the latest weights", comparisons.against_latest, "superior"),
        ("Latest weights against exact stashing", comparisons.latest_against_stash, "equivalent"),
        ("Applied updates against raw gradients", comparisons.applied_against_raw, "superior"),
        ("Warm-up with exact weights against none", comparisons.warm_up_against_none, "superior"),
        ("Exact stashing against sequential training: what the delay costs", comparisons.stash_against_sequential,
         "equivalent"),
    )  # fmt: skip
    blocks: list[Block] = []
    for title, family, p_value in families:
        table = family(runs, settings)
        if len(table):
            blocks += [Heading(title), Table(tables.comparison(table, p_value))]
    slopes = comparisons.trends(runs, settings)
    if len(slopes):
        level = f"{100 * (1 - settings.level):g} % intervals over the seeds' slopes, not corrected."
        blocks += [Heading("Effect of the number of stages"), Text(f"Difference to exact stashing per stage; {level}"),
                   Table(tables.trends(slopes))]  # fmt: skip
    return blocks


def _limits(records: CampaignRecords) -> list[str]:
    left_out = comparisons.left_out(records.runs)
    edges = int(records.chosen["edge"].sum())
    return [
        "The paper's hyper-parameters and the values of its figures are not known: no number here is compared with one "
        "of the paper's.",
        f"Cells in which exact stashing does not train, left out of the answers: {left_out or 'none'}.",
        f"{edges} of {len(records.chosen)} tuned learning rates lie at an end of the values tried.",
        "Tuning used one seed; final runs share one test set; equivalence means 'within the margin'.",
        "Delays are simulated on one device: nothing here measures the speed or memory of a real pipeline.",
    ]


def _one(runs: pd.DataFrame, column: str) -> str:
    return str(runs[column].iloc[0])


def _pipelined(runs: pd.DataFrame, column: str) -> str:
    pipelined = runs[runs["num_stages"] > 1]
    return _one(pipelined if len(pipelined) else runs, column)
