"""C7 on the measured map: all layers in one stage, or in two, and whether what they trade says which is faster."""

from paper_figures import variant_style
from paper_figures.records.regimes import Regimes
from paper_figures.text import span
from paper_figures.verdicts import Answer

RIGHT = 0.9
"""Share of the cases on either side that must be as expected."""
LEAST = 5
"""Decided cases that either side needs."""
_HALF = 0.5
_ONE, _TWO, _DDP = "plain", "async/stash", "ddp"


def one_stage_or_two(regimes: Regimes) -> tuple[Answer, int, str]:
    """The measured part of the test in ``claims.yaml``.

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
