"""What the measurements say of training time to an accuracy; every number is computed from the records."""

from __future__ import annotations

import pandas as pd

from paper_figures.pipelines import variants
from paper_figures.pipelines.answers import NOT_MEASURED, Claim, listed, percent, spread
from paper_figures.pipelines.records import Study

_TITLE = "Time to accuracy"


def accuracy(study: Study) -> Claim:
    """Time to the target accuracy, against plain training and every synchronous pipeline that was timed."""
    names = variants.ordered(study.targets["variant"])
    if "plain" not in names:
        return Claim(_TITLE, NOT_MEASURED, "No training to an accuracy was timed.")
    seconds = study.targets.pivot(index="seed", columns="variant", values="seconds")
    epochs = study.targets.groupby("variant")["epochs"].median()
    peers, ours = ([name for name in names if of(name)] for of in (variants.is_peer, variants.is_candidate))
    others = [name for name in names if name != "plain"]
    itself = _missed(seconds["plain"]) or f"{epochs['plain']:g} epochs"
    told = [
        f"Training time to {percent(study.options['target'])} validation accuracy on {study.options['dataset']}, by "
        "seed; 'faster' is said only of what every seed was.",
        f"Speed over plain training ({itself}): {_told(seconds, 'plain', others, epochs)}.",
    ]
    told += [f"Over {variants.label(peer)}: {_told(seconds, peer, ours)}." for peer in peers if ours]
    answer = "; ".join(_answer(seconds, base, ours) for base in ("plain", *peers))
    return Claim(_TITLE, answer if ours else NOT_MEASURED, " ".join(told))


def _told(seconds: pd.DataFrame, base: str, names: list[str], epochs: pd.Series | None = None) -> str:
    """Speeds over ``base``, with epochs if given; without numbers where the target was missed."""
    told = []
    for name in names:
        ratio = (seconds[base] / seconds[name]).dropna()
        words = spread(ratio) if len(ratio) else "–"
        if epochs is not None:
            words += f", {epochs[name]:g} epochs"
        told.append(f"{variants.label(name)}: {_missed(seconds[name]) or words}")
    return "; ".join(told)


def _missed(seconds: pd.Series) -> str:
    """Nothing if every seed reached the target."""
    missed = int(seconds.isna().sum())
    return f"missed by {missed} of {len(seconds)} seeds" if missed else ""


def _answer(seconds: pd.DataFrame, base: str, ours: list[str]) -> str:
    """Whose training was faster than ``base`` for every seed; a target that either missed shows nothing."""
    faster = [name for name in ours if (seconds[base] / seconds[name]).min(skipna=False) > 1]
    than = "one process" if base == "plain" else variants.label(base)
    if not faster:
        return f"not faster than {than}"
    only = f" only with {listed(variants.history(name) for name in faster)}" if len(faster) < len(ours) else ""
    return f"faster than {than}{only}"
