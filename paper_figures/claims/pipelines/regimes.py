"""What the regime map says: where which kind of training is fastest, and how well that was predicted."""

import pandas as pd

from paper_figures import variant_style
from paper_figures.records.regimes import POINT, Regimes
from paper_figures.text import listed, percent, plural, span
from paper_figures.verdicts import AIM, FASTER, Verdict, everywhere

_OURS = "asynchronous"


def fastest(regimes: Regimes) -> Verdict:
    """Whether an asynchronous pipeline is faster than everything else, place by place."""
    winners, lead = regimes.winners(), _lead(regimes)
    winners["kind"] = winners["fastest"].map(variant_style.group)
    winners["ours"] = (winners["kind"] == _OURS) & winners["decided"]
    counts, details, leads = [], [], []
    for place in regimes.places:
        mine, ratio = winners[winners["place"] == place], lead[place]
        counts.append(f"{place}: {listed(f'{kind} {n}' for kind, n in mine['kind'].value_counts().items())}")
        details.append(f"{place} {mine['ours'].sum()}")
        leads.append(f"{place} {ratio.median():.2f}× ({ratio.min():.2f}–{ratio.max():.2f})")
    text = (
        f"Of {len(lead)} points, by medians the fastest kind is: {'; '.join(counts)}. Speed of the faster asynchronous "
        f"pipeline over the fastest of all other choices, one process included, median and range over the points: "
        f"{'; '.join(leads)}. 'Faster' counts points at which one beat every other kind in every round."
    )
    said = f"faster at so many of {len(lead)} points: {', '.join(details)}"
    title = "Asynchronous pipelines against everything else"
    return Verdict(title, everywhere(winners["ours"]), FASTER, evidence=(text,), details=said)


def _lead(regimes: Regimes) -> pd.DataFrame:
    """By point and place, the speed of the faster asynchronous pipeline over that of the fastest other choice."""
    found = regimes.summary()
    found["ours"] = found["variant"].map(variant_style.group) == _OURS
    best = found.groupby([*POINT, "place", "ours"])["measured"].min().unstack("ours")
    return (best[False] / best[True]).unstack("place")


def foretold(regimes: Regimes) -> Verdict:
    """Whether the model names the fastest choice, and how far its times are off."""
    winners, found = regimes.winners(), regimes.summary()
    wrong = winners[winners["fastest"] != winners["foretold"]]
    kinds = winners[["fastest", "foretold"]].map(variant_style.group)
    right = int((kinds["fastest"] == kinds["foretold"]).sum())
    off = (found["measured"] / found["predicted"] - 1).dropna()
    cost = f"A wrong choice takes {span(wrong['loss'], percent)} longer (median {percent(wrong['loss'].median())})."
    close = [f"{(off.abs() <= share).sum()} are within {percent(share)}" for share in (0.1, 0.25)]
    text = (
        f"Written before anything was measured, from times of the layers in one process and measured bandwidths: the "
        f"fastest choice is right at {len(winners) - len(wrong)} of {len(winners)} points and places, its kind at "
        f"{right}. {cost if len(wrong) else ''} Of {plural(len(off), 'measured time')}, {listed(close)} of the "
        f"prediction; measured over predicted, less one, is {percent(off.median(), '+.0f')} in the median."
    )
    details = f"right at {len(winners) - len(wrong)} of {len(winners)}, its kind at {right}"
    return Verdict("Predicted fastest choice", everywhere(winners["loss"] == 0), AIM, evidence=(text,), details=details)
