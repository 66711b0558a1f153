"""Verdicts on the modelled part of C5 and on C7, and where LayerPipe's numbers fall in our model.

Each function takes a table of :mod:`layerpipe2.study.costs` and returns the verdict's word and a sentence whose
numbers come from the table. They can fail: the tests hold them against tables with the opposite outcome.
"""

from __future__ import annotations

import pandas as pd

from layerpipe2.schedules import build_schedule
from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, inconclusive
from paper_figures.labels import network_label

Verdict = tuple[str, str]


def history_is_a_cost(table: pd.DataFrame) -> Verdict:
    """C5, the model's part: pipelining needs weight versions, and stashing them costs memory.

    Reproduced if in the order in which LayerPipe2's schedule executes its actions (not by its delay law) every stage
    but the last has at least one update between the forward and the backward pass of a mini-batch, and if for every
    network the stash is empty with one stage, is not with more, and is largest with one unit per stage.
    """
    if not len(table):
        return inconclusive(0), "No partition was costed."
    counts = sorted(set(table["stages"]))
    needless = sum(0 in build_schedule("layerpipe2", k, k, 4 * k).delays()[:-1] for k in counts)
    pipelined = table["stages"] > 1
    free = int((table[pipelined]["history_stash"] <= 0).sum() + (table[~pipelined]["history_stash"] != 0).sum())
    largest = table.loc[table.groupby("network", sort=False)["history_stash"].idxmax()]
    coarser = int((largest["group_size"] != 1).sum())
    said = "; ".join(
        f"{network_label(r.network)} {r.history_stash / r.parameters:.1f} times its parameters, "
        f"{100 * r.history_stash / r.activations:.2g} % of its stored activations"
        for r in largest.itertuples()
    )
    sentence = (
        f"Exact stashing with most stages holds, beside the latest weights: {said}. {needless} of {len(counts)} stage "
        f"counts need no history, {free} of {len(table)} partitions contradict the claim, {coarser} of {len(largest)} "
        "networks need most at a coarser grouping. Modelled: it is a cost everywhere, but beside the activations that "
        "the same delays keep alive it is the smaller one."
    )
    return (NOT_REPRODUCED if needless + free + coarser else REPRODUCED), sentence


def grouping_trades(table: pd.DataFrame) -> Verdict:
    """C7: grouping trades communication against computation, in a controlled way.

    Reproduced if for every network one unit per stage has the most communication and the least work in its slowest
    stage, one stage has the least communication and the most work, and at least one group size between them is on
    the Pareto front: then neither end is best at both, and the group size chooses between them.
    """
    if not len(table):
        return inconclusive(0), "No partition was costed."
    failed, said = 0, []
    for name, mine in table.groupby("network", sort=False):
        finest, coarsest = mine.loc[mine["group_size"].idxmin()], mine.loc[mine["stages"].idxmin()]
        ends = (
            finest["communication"] == mine["communication"].max() > coarsest["communication"]
            and coarsest["communication"] == mine["communication"].min()
            and finest["computation"] == mine["computation"].min() < coarsest["computation"]
            and coarsest["computation"] == mine["computation"].max()
        )
        front = int(mine["efficient"].sum())
        failed += not (ends and front >= 3)
        said.append(
            f"{network_label(str(name))} {finest['communication'] / 1e6:.3g} MB per mini-batch and "
            f"{100 * finest['share']:.0f} % of the work in the slowest stage at one unit per stage, "
            f"{front} of {len(mine)} group sizes on the front"
        )
    sentence = (
        f"{'; '.join(said)}; one stage sends nothing and does all. {failed} of {table['network'].nunique()} networks "
        "contradict the claim. Group sizes off the front are wasteful: equal counts of units are not equal work."
    )
    return (NOT_REPRODUCED if failed else REPRODUCED), sentence


def layerpipe_in_our_model(table: pd.DataFrame) -> str:
    """Where LayerPipe's abstract falls: a sentence, no verdict, since placement and device are our own reading."""
    fine = table[table["schedule"] == "layerpipe"]
    many = fine[fine["processors"].between(7, 9)]
    base = table[table["schedule"] == "pipedream"].set_index(["network", "processors"])["megabytes"]
    sent = fine.set_index(["network", "processors"])["megabytes"]
    less = int((sent < base.loc[sent.index]).sum())
    ours = table[table["schedule"] == "layerpipe2"]["speed"]
    return (
        f"In our reading and model LayerPipe is {100 * (many['speed'].mean() - 1):+.0f} % faster than PipeDream on "
        f"average with 7 to 9 processors (from {100 * (many['speed'].min() - 1):+.0f} to "
        f"{100 * (many['speed'].max() - 1):+.0f} %, n={len(many)}), {100 * (fine['speed'].mean() - 1):+.0f} % over all "
        f"{len(fine)} cases of {fine['network'].nunique()} networks; its abstract says +25 % on average and up to "
        f"+80 % with 7 to 9. It sends fewer bytes in {less} of the {len(fine)} cases: 'less communication' is not what "
        f"we find. LayerPipe2, with whole layers per processor, is {100 * (ours.mean() - 1):+.1f} %: its doubled delay "
        "hides time on the links, and does not balance the stages."
    )
