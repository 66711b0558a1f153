"""What the measurements say of training time to an accuracy; every number is computed from the records."""

import pandas as pd

from paper_figures import variant_style
from paper_figures.records.pipelines import Benchmark
from paper_figures.text import listed, median_range, percent
from paper_figures.verdicts import FASTER, Answer, Verdict, everywhere

_TITLE = "Time to accuracy"


def accuracy(bench: Benchmark) -> Verdict:
    """Time to the target accuracy, against plain training and every synchronous pipeline that was timed."""
    names = variant_style.ordered(bench.targets["variant"])
    if "plain" not in names:
        return Verdict(_TITLE, Answer.NOT_TESTED, FASTER, evidence=("No training to an accuracy was timed.",))
    seconds = bench.targets.pivot(index="seed", columns="variant", values="seconds")
    epochs = bench.targets.groupby("variant")["epochs"].median()
    peers, ours = ([n for n in names if of(n)] for of in (variant_style.is_torch, variant_style.is_candidate))
    others = [name for name in names if name != "plain"]
    itself = _missed(seconds["plain"]) or f"{epochs['plain']:g} epochs"
    sentences = [
        f"Training time to {percent(bench.options['target'])} validation accuracy on {bench.options['dataset']}, by "
        "seed; 'faster' is said only of what every seed was.",
        f"Speed over plain training ({itself}): {_speeds(seconds, 'plain', others, epochs)}.",
    ]
    sentences += [f"Over {variant_style.label(peer)}: {_speeds(seconds, peer, ours)}." for peer in peers if ours]
    evidence = (" ".join(sentences),)
    if not ours:
        return Verdict(_TITLE, Answer.NOT_TESTED, FASTER, evidence=evidence)
    faster = {base: _faster(seconds, base, ours) for base in ("plain", *peers)}
    details = "; ".join(_compared(base, faster[base], ours) for base in faster)
    answer = everywhere(names == ours for names in faster.values())
    return Verdict(_TITLE, answer, FASTER, evidence=evidence, details=details)


def _speeds(seconds: pd.DataFrame, base: str, names: list[str], epochs: pd.Series | None = None) -> str:
    """Speeds over ``base``, with epochs if given; without numbers where the target was missed."""
    texts = []
    for name in names:
        ratio = (seconds[base] / seconds[name]).dropna()
        words = median_range(ratio) if len(ratio) else "–"
        if epochs is not None:
            words += f", {epochs[name]:g} epochs"
        texts.append(f"{variant_style.label(name)}: {_missed(seconds[name]) or words}")
    return "; ".join(texts)


def _missed(seconds: pd.Series) -> str:
    """Nothing if every seed reached the target."""
    missed = int(seconds.isna().sum())
    return f"missed by {missed} of {len(seconds)} seeds" if missed else ""


def _faster(seconds: pd.DataFrame, base: str, ours: list[str]) -> list[str]:
    """Those that trained faster than ``base`` for every seed; a target that either missed shows nothing."""
    return [name for name in ours if (seconds[base] / seconds[name]).min(skipna=False) > 1]


def _compared(base: str, faster: list[str], ours: list[str]) -> str:
    than = "one process" if base == "plain" else variant_style.label(base)
    if not faster:
        return f"not faster than {than}"
    only = f" only with {listed(map(variant_style.history, faster))}" if len(faster) < len(ours) else ""
    return f"faster than {than}{only}"
