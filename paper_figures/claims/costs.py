"""The modelled part of C5, the verdict on C7, and where LayerPipe's numbers fall in our model.

Each function takes a table of the theory and returns the answer and a sentence whose numbers come from the table. They
can fail: the tests try them on tables with the opposite outcome.
"""

import pandas as pd

from layerpipe2.lab.reference import BATCH_SIZE, CLASSES, INPUT_SHAPE, REFERENCE
from layerpipe2.planning.schedules import build_schedule
from paper_figures.claims import claim_verdict
from paper_figures.claims.pipelines.grouping import LEAST, RIGHT, one_stage_or_two
from paper_figures.records.regimes import Regimes
from paper_figures.text import network_label, percent
from paper_figures.verdicts import Answer, Verdict, both, exact

ANCHORS = (1.25, 1.80)
"""LayerPipe's abstract: speed over PipeDream on average, and at most with 7 to 9 processors."""


def history_is_a_cost(table: pd.DataFrame) -> tuple[Answer, str]:
    """C5, the model's part: pipelining needs weight versions, and stashing them costs memory.

    Reproduced if in the order in which LayerPipe2's schedule executes its actions (not by its delay law) every stage
    but the last has at least one update between the forward and the backward pass of a mini-batch, and if for every
    network the stash is empty with one stage, is not with more, and is largest with one unit per stage.
    """
    if not len(table):
        return Answer.UNDECIDED, "No partition was costed."
    counts = sorted(set(table["stages"]))
    needless = sum(0 in build_schedule("layerpipe2", k, k, 4 * k).delays()[:-1] for k in counts)
    pipelined = table["stages"] > 1
    free = int((table[pipelined]["history_stash"] <= 0).sum() + (table[~pipelined]["history_stash"] != 0).sum())
    largest = table.loc[table.groupby("network", sort=False)["history_stash"].idxmax()]
    coarser = int((largest["group_size"] != 1).sum())
    said = "; ".join(
        f"{network_label(r.network)} {r.history_stash / r.parameters:.1f} times its parameters, which is "
        f"{100 * r.history_stash / r.activations:.2g} % of what its activations in flight take"
        for r in largest.itertuples()
    )
    sentence = (
        f"In the cost model ({INPUT_SHAPE[1]} × {INPUT_SHAPE[2]} images, {CLASSES} classes, mini-batches of "
        f"{BATCH_SIZE}) exact stashing with most stages holds, beside the latest weights: {said}. {needless} of "
        f"{len(counts)} stage counts need no history, {free} of {len(table)} partitions contradict the claim, "
        f"{coarser} of {len(largest)} networks need most at a coarser grouping. It is a cost everywhere, but beside "
        "the activations that the same delays keep alive it is the smaller one."
    )
    return exact(needless + free + coarser, len(table)), sentence


def trade_off(table: pd.DataFrame, regimes: Regimes | None) -> Verdict:
    """C7 on the modelled costs of every group size of the project's networks, and on the map if one was measured."""
    modelled, sentence = grouping_trades(table)
    if regimes is None or regimes.is_quick or len(regimes.places) == 1:  # no link is slow enough on one host
        said = (sentence, "Modelled, not measured on hardware.")
        return claim_verdict("C7", modelled, said, caveat="in our cost model")
    found, n, measured = one_stage_or_two(regimes)
    evidence = (measured, f"In the cost model, for all group sizes: {sentence}")
    caveat = "measured for two stages, else modelled"
    parts = ("test", "measured")
    return claim_verdict(
        "C7", both(modelled, found), evidence, n=n, caveat=caveat, parts=parts, share=percent(RIGHT), least=LEAST
    )


def grouping_trades(table: pd.DataFrame) -> tuple[Answer, str]:
    """C7: grouping trades communication against computation, in a controlled way.

    Reproduced if for every network one unit per stage has the most communication and the least work in its slowest
    stage, one stage has the least communication and the most work, and at least one group size between them is on
    the Pareto front: then neither end is best at both, and the group size chooses between them.
    """
    if not len(table):
        return Answer.UNDECIDED, "No partition was costed."
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
    return exact(failed, len(table)), sentence


def layerpipe_in_our_model(table: pd.DataFrame) -> tuple[str, ...]:
    """Where LayerPipe's abstract falls: sentences, no verdict, since placement and device are our own reading."""
    fine = table[table["schedule"] == "layerpipe"]
    many = fine[fine["processors"].between(7, 9)]
    mean, best = many["speed"].mean(), many.loc[many["speed"].idxmax()]
    over = int((many["speed"] > ANCHORS[1]).sum())
    sent = _bytes(table, "layerpipe") / _bytes(table, "pipedream")
    ours = table.loc[table["schedule"] == "layerpipe2", "speed"]
    return (
        f"LayerPipe's abstract: {_percent(ANCHORS[0])} on average, up to {_percent(ANCHORS[1])} with 7 to 9 "
        f"processors. Here with 7 to 9 processors: {_percent(mean)} on average (n={len(many)}), from "
        f"{_percent(many['speed'].min())} to {_percent(best['speed'])} ({REFERENCE[best['network']].label} on "
        f"{best['processors']} processors); {over} of these cases are above {_percent(ANCHORS[1])}. Over all "
        f"{len(fine)} cases of {fine['network'].nunique()} networks: {_percent(fine['speed'].mean())}. So in this "
        f"model the average is {_beside(mean, ANCHORS[0])} the abstract's, and the largest gain is "
        f"{_beside(best['speed'], ANCHORS[1])} its largest. LayerPipe places tasks finer than layers; a pipeline with "
        "whole layers per processor, PipeDream's too, has at most as many stages as the network has layers.",
        f"It sends fewer bytes than PipeDream in {int((sent < 1).sum())} of {len(fine)} cases, and {sent.mean():.1f} "
        "times as many on average: 'less communication' is not what we find, since the finer cut sends inputs to "
        "weight gradients elsewhere and new weights to wherever they are read.",
        f"LayerPipe2's own schedule, with whole layers per processor, is {_percent(ours.mean(), 1)} on average: its "
        "doubled delay hides time on the links, and does not balance the stages.",
    )


def _bytes(table: pd.DataFrame, schedule: str) -> pd.Series:
    """Megabytes per batch by network and number of processors."""
    return table[table["schedule"] == schedule].set_index(["network", "processors"])["megabytes"]


def _beside(found: float, published: float) -> str:
    return "above" if found > published else "not above"


def _percent(ratio: float, digits: int = 0) -> str:
    return percent(ratio - 1, f"+.{digits}f")
