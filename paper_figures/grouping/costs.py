"""What grouping trades: modelled communication, computation and memory by group size, and a measured map of two stages.

Each function that answers takes a table and returns the answer and a sentence whose numbers come from the table.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.reference import BATCH_SIZE, CLASSES, INPUT_SHAPE, LINKS, RATE
from layerpipe2.planning.schedules import build_schedule
from paper_figures import style, variant_style
from paper_figures.page import report
from paper_figures.pipelines.regimes import Regimes
from paper_figures.text import Format, for_readers, network_label, number, percent, span
from paper_figures.theory import Theory
from paper_figures.verdicts import Answer, Verdict, both, exact


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


@report.claim("C7")
def trade_off(partitions: pd.DataFrame, regimes: Regimes | None) -> Verdict:
    """Judge C7 on modelled costs, and on the map if one was measured.

    Claim: Grouping is a controlled trade-off of communication against computation.

    Test: Exact, on modelled bytes and operations: for every network one unit per stage has the most communication
    and the least work in its slowest stage, one stage the least communication and the most work, and a group size
    between them is on the Pareto front.

    Measured: And measured on two processes, at every point and place of the map: the whole network as one stage,
    which sends nothing, against two stages, which share the work and send the activations at the cut. That is a
    trade-off if each of the two is faster somewhere, and a controlled one if the ratio that it trades says
    beforehand which: the time that the link needs for these activations, over the time that one process needs for
    the mini-batch. Above 1 two stages cannot be faster, and to choose two stages always would be wrong there.
    Counted are the cases in which one of the two is faster in every round. Reproduced if two stages are faster in
    at least {share} of the cases below 1, and one stage in at least {share} of the cases above 1; not reproduced if
    in less than half of either; else undecided, as with fewer than {least} cases on either side. That two processes
    beat one where nothing holds them up says little: what is tested is where they cease to.
    """
    modelled, sentence = grouping_trades(partitions)
    if regimes is None or regimes.is_quick or len(regimes.places) == 1:  # no link is slow enough on one host
        said = (sentence, "Modelled, not measured on hardware.")
        return Verdict(answer=modelled, evidence=said, caveat="in our cost model")
    found, n, measured = one_stage_or_two(regimes)
    return Verdict(
        answer=both(modelled, found),
        n=n,
        evidence=(measured, f"In the cost model, for all group sizes: {sentence}"),
        caveat="measured for two stages, else modelled",
        parts=("Test", "Measured"),
        demands={"share": percent(RIGHT), "least": LEAST},
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


RIGHT = 0.9
"""Share of the cases on either side that must be as expected."""


LEAST = 5
"""Decided cases that either side needs."""


_HALF = 0.5


_ONE, _TWO, _DDP = "plain", "async/stash", "ddp"


def one_stage_or_two(regimes: Regimes) -> tuple[Answer, int, str]:
    """The measured part of the test of C7.

    Of one stage the time is that of one process, T. Two stages take at least ``A / bandwidth`` for bytes A at the cut
    in either direction, so that they cannot win where ``A / (bandwidth T)`` is above 1.

    Returns:
        The answer, the number of decided cases, and a sentence.
    """
    cases = regimes.rounds(_TWO, _ONE)
    bandwidths = cases["place"].map({place: regimes.neighbours_bandwidth(place) for place in regimes.places})
    cases["ratio"] = cases["cut_bytes"] / bandwidths / cases["step"]
    decided = cases[cases["side"] != 0]
    below, above = decided[decided["ratio"] < 1]["side"], decided[decided["ratio"] >= 1]["side"]
    answer = Answer.UNDECIDED
    if min(len(below), len(above)) >= LEAST:
        least = min((below > 0).mean(), (above < 0).mean())
        answer = Answer.YES if least >= RIGHT else Answer.NO if least < _HALF else answer
    ratios = span(cases["ratio"], lambda ratio: f"{ratio:.2g}")
    sentence = (
        f"At {len(cases)} points and places the link needs {ratios} times as long for the activations as one process "
        f"for the mini-batch; {len(decided)} times one of the two was faster in every round "
        f"(n={regimes.rounds_of_each}). Where that ratio is below 1, two stages ({variant_style.label(_TWO)}) were "
        f"faster in {(below > 0).sum()} of {len(below)} cases; above, one stage in {(above < 0).sum()} of {len(above)}."
        f" {_against_ddp(regimes)}"
    )
    return answer, len(decided), sentence


def _against_ddp(regimes: Regimes) -> str:
    """No part of the verdict: the other way to share the work, which sends the weights instead."""
    cases = regimes.rounds(_TWO, _DDP)
    decided = cases[cases["side"] != 0]
    more = decided["parameter_bytes"] > decided["cut_bytes"]
    return (
        "Against data parallel training, which sends gradients of all weights instead, two stages were faster in "
        f"{(decided[more]['side'] > 0).sum()} of {more.sum()} decided cases with more bytes of weights than of "
        f"activations at the cut, and slower in {(decided[~more]['side'] < 0).sum()} of {(~more).sum()} with fewer."
    )


def partitions(theory: Theory) -> pd.DataFrame:
    """Modelled costs of every group size."""
    names: dict[str, tuple[str, Format]] = {
        "communication": ("MB over boundaries", _megabytes),
        "share": ("work of slowest stage (%)", lambda share: f"{100 * share:.1f}"),
        "balance": ("balance", number(2)),
        "activations": ("activations (MB)", _megabytes),
        "history_stash": ("stash (MB)", _megabytes),
        "history_ema": ("average (MB)", _megabytes),
        "efficient": ("on the Pareto front", lambda efficient: "yes" if efficient else "no"),
    }
    return for_readers(theory.partitions[["network", "group_size", "stages", *names]], names)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"


_LINKS: tuple[dict[str, Any], ...] = (
    {"color": "#222222", "marker": "", "linestyle": (0, ())},
    {"color": "#777777", "marker": "", "linestyle": (0, (4, 1.5))},
    {"color": "#aaaaaa", "marker": "", "linestyle": (0, (1, 1))},
)
"""Greys: a colour is a strategy's."""


_BEST: dict[str, Any] = {"color": "#882255", "marker": "o", "linestyle": "", "markersize": 4.5}


_SETTING = f"3 × 32 × 32 inputs, mini-batches of {BATCH_SIZE}, float32, LayerPipe2's delays."


@report.figure("costs_tradeoff", data="partitions")
def tradeoff(partitions: pd.DataFrame) -> Figure:
    """Speed over one processor against the group size, for several links, and the best group size of each."""
    names = list(dict.fromkeys(partitions["network"]))
    figure, axes = style.canvas(2.6, len(names))
    for axis, name in zip(axes.flat, names, strict=True):
        _draw_speed(axis, partitions[partitions["network"] == name])
        axis.set_title(network_label(name))
    axes[0, 0].set_ylabel("speed over one processor")
    entries = [style.handle(f"links of {link}", **looks) for looks, link in zip(_LINKS, LINKS, strict=True)]
    entries.append(style.handle("best group size", **_BEST))
    style.legend(figure, entries, 4, "How many units per stage are fastest, by the speed of the links")
    rate = f"Modelled, n = 1: {RATE / 1e12:.0f} TFLOP/s per processor; thin line: one of them."
    style.note(figure, f"{rate} {_SETTING}")
    return figure


def _draw_speed(axis: Any, mine: pd.DataFrame) -> None:
    for looks, link in zip(_LINKS, LINKS, strict=True):
        axis.plot(mine["group_size"], mine[link], clip_on=False, **looks)
        best = mine.loc[mine[link].idxmax()]
        axis.plot(best["group_size"], best[link], clip_on=False, zorder=4, **_BEST)
    axis.axhline(1, color="#000000", linewidth=0.5)
    axis.set(ylim=(0, None), xlabel="units per stage")
    style.integer_ticks(axis)


_PARTS: dict[str, dict[str, Any]] = {
    "activations": {"label": "stored activations", "color": "#999999", "marker": "d", "linestyle": (0, ())},
    "parameters": {"label": "parameters", "color": "#000000", "marker": "", "linestyle": (0, (1, 1))},
    "history_stash": style.line("stash", label="history: exact stash"),
    "history_ema": {"label": "history: moving average", "color": "#444444", "marker": "^", "linestyle": (0, (3, 1))},
}


@report.figure("costs_memory", data="partitions")
def memory(partitions: pd.DataFrame) -> Figure:
    """Parameters, stored activations and weight history (exact and averaged) against the group size, on a log axis.

    One stage has no history, so that its lines end before.
    """
    names = list(dict.fromkeys(partitions["network"]))
    figure, axes = style.canvas(2.5, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        mine = partitions[partitions["network"] == name]
        for part, looks in _PARTS.items():
            there = mine[mine[part] > 0]
            axis.plot(there["group_size"], there[part] / 1e6, clip_on=False, **looks)
        axis.set(yscale="log", title=network_label(name), xlabel="units per stage")
        style.integer_ticks(axis)
    axes[0, 0].set_ylabel("MB in all stages")
    style.legend(figure, [style.handle(**looks) for looks in _PARTS.values()], title="What a pipeline keeps in memory")
    style.note(figure, _SETTING + " Activations: (d + 1) mini-batches per stage.")
    return figure


report.table("partitions", shown=partitions)(lambda theory: theory.partitions)
