"""What the regime map says: where which kind of training is fastest, and how well that was predicted."""

import pandas as pd

from paper_figures import variant_style
from paper_figures.records.regimes import CLOSE, POINT, Regimes
from paper_figures.text import listed, percent, plural
from paper_figures.verdicts import AIM, FASTER, Verdict, everywhere


def fastest(regimes: Regimes) -> Verdict:
    """Whether an asynchronous pipeline is faster than all other choices of the map, place by place."""
    winners, lead = regimes.winners(), _lead(regimes)
    winners["kind"] = winners["fastest"].map(variant_style.group)
    winners["ours"] = (winners["kind"] == variant_style.OURS) & winners["decided"]
    counts, details, leads = [], [], []
    for place in regimes.places:
        mine, ratio = winners[winners["place"] == place], lead[place]
        counts.append(f"{place}: {listed(f'{kind} {n}' for kind, n in mine['kind'].value_counts().items())}")
        details.append(f"{place} {mine['ours'].sum()}")
        leads.append(f"{place} {ratio.median():.2f}× ({ratio.min():.2f}–{ratio.max():.2f})")
    text = (
        f"Of {len(lead)} points, by medians the fastest kind is: {'; '.join(counts)}. Speed of the faster asynchronous "
        f"pipeline over the fastest other choice that was measured, median and range over the points: "
        f"{'; '.join(leads)}. 'Faster' counts points at which one beat every other kind in every round."
    )
    said = f"faster at so many of {len(lead)} points: {', '.join(details)}"
    title = "Asynchronous pipelines against one process, threads, DDP and 1F1B"
    return Verdict(title, everywhere(winners["ours"]), FASTER, evidence=(text,), details=said)


def _lead(regimes: Regimes) -> pd.DataFrame:
    """By point and place, the speed of the faster asynchronous pipeline over that of the fastest other choice."""
    found = regimes.summary()
    found["ours"] = found["variant"].map(variant_style.group) == variant_style.OURS
    best = found.groupby([*POINT, "place", "ours"])["measured"].min().unstack("ours")
    return (best[False] / best[True]).unstack("place")


def foretold(regimes: Regimes) -> Verdict:
    """Whether the model names the fastest choice, what it costs to follow it, and how far its times are off."""
    winners, off = regimes.winners(), regimes.errors()["error"]
    kinds = winners[["fastest", "foretold"]].map(variant_style.group)
    kind = int((kinds["fastest"] == kinds["foretold"]).sum())
    close = [f"{(off.abs() <= share).sum()} are within {percent(share)}" for share in (0.1, 0.25)]
    simple = [f"always {variant_style.label(name)} {_cost(loss)}" for name, loss in regimes.rules().items()]
    loss, (best, known) = winners["loss"], regimes.hindsight()
    text = (
        "Written before anything was measured, from times of the layers in one process and measured bandwidths; no "
        "number of the model is fitted to the map, though its form was made with all points in view that are not held "
        f"out. The fastest choice is right at {_right(loss)}, its kind at {kind}. Time over that of the fastest "
        f"choice: as predicted {_cost(loss)}; {'; '.join(simple)} (with two hosts, one process stands for threads). "
        f"{_hindsight(best, known)} {_leads(winners)}{_held_out(winners, known)}Of "
        f"{plural(len(off), 'measured time')}, {listed(close)} of the prediction; measured over predicted, less one, "
        f"is {percent(off.median(), '+.0f')} in the median, and without its sign {percent(off.abs().median())}."
    )
    wrong = f"; a wrong choice takes {_cost(loss[loss > 0])} as long as the fastest" if (loss > 0).any() else ""
    details = f"right at {_right(loss)}{wrong}"
    return Verdict("Predicted fastest choice", everywhere(loss == 0), AIM, evidence=(text,), details=details)


def _right(loss: pd.Series) -> str:
    return f"{(loss == 0).sum()} of {len(loss)} points and places, within {percent(CLOSE)} at {(loss <= CLOSE).sum()}"


def _cost(loss: pd.Series) -> str:
    return f"{1 + loss.mean():.2f}× on average and {1 + loss.max():.2f}× at most"


def _hindsight(best: dict[str, str], loss: pd.Series) -> str:
    """What the best rule of each place would have cost, which nobody knows before."""
    rule = "; ".join(f"{place}: always {variant_style.label(name)}" for place, name in best.items())
    return f"The best rule of each place, known only afterwards ({rule}), is right at {_right(loss)}: {_cost(loss)}."


def _leads(winners: pd.DataFrame) -> str:
    """Whether a large predicted lead is safer than a small one."""
    wrong, clear = winners["loss"] > 0, winners["lead"] > CLOSE
    shares = [
        f"{(wrong & chosen).sum()} of {chosen.sum()} choices whose predicted lead is {words} {percent(CLOSE)}"
        for chosen, words in ((clear, "more than"), (~clear, "at most"))
        if chosen.any()
    ]
    return f"The prediction is wrong in {listed(shares)}. "


def _held_out(winners: pd.DataFrame, known: pd.Series) -> str:
    """A sentence on the points that are held out, if there are any; ``known``: what the best rules cost."""
    held = winners[winners["held_out"]]
    if held.empty:
        return ""
    loss, known = held["loss"], known[winners["held_out"].to_numpy()]
    points = plural(len(held[POINT].drop_duplicates()), "point")
    where = f"Of the {points} that are held out, of which nothing had been measured before, each at all places"
    return f"{where}, it is right at {_right(loss)}, with {_cost(loss)} (the best rule of each place: {_cost(known)}). "
