"""What the measurements say of speed; every number is computed from the records."""

from __future__ import annotations

import pandas as pd

from paper_figures.pipelines import variants
from paper_figures.pipelines.answers import NOT_MEASURED, Claim, candidates, listed, percent, sign, span, spread, word
from paper_figures.pipelines.figures import network_words
from paper_figures.pipelines.records import PipelineRecords, Study
from paper_figures.pipelines.targets import IN_WORDS, OVER_PEERS, OVER_PLAIN, PEERS


def over_plain(study: Study) -> Claim:
    """Speed over one process."""
    found = {name: study.ratios(name) for name in candidates(study)}
    told = [
        f"{variants.label(name)}: {spread(ratio)}, in {int((ratio >= OVER_PLAIN).sum())} of {len(ratio)} rounds"
        for name, ratio in found.items()
    ]
    text = (
        f"Aim: at least {OVER_PLAIN:g}× plain training, median over rounds, {study.options['processes']} processes of "
        f"one thread against one. {'; '.join(told)}. Filling and draining the pipeline once per "
        f"{study.options['batches']} mini-batches is included."
    )
    title = f"{study.options['processes']} processes against one"
    answer = word(ratio.median() >= OVER_PLAIN for ratio in found.values())
    return Claim(title, answer, " ".join([text, *_rivals(study, found), *_superlinear(study, found)]))


def _rivals(study: Study, found: dict[str, pd.Series]) -> list[str]:
    """The fastest pipeline over what else one process can do with the same cores or caches."""
    processes = study.options["processes"]
    rivals = {
        "plain/4": "One process that accumulates gradients of 4 micro-batches",
        f"threads/{processes}": f"One process of {processes} threads",
    }
    told = []
    for rival in [name for name in rivals if found and name in set(study.variants["variant"])]:
        best = max(found, key=lambda name: found[name].median())
        over = f"over it, {variants.label(best)} has {spread(study.ratios(best, rival))}"
        told.append(f"{rivals[rival]} runs at {spread(study.ratios(rival))}; {over}.")
    return told


def _superlinear(study: Study, found: dict[str, pd.Series]) -> list[str]:
    """Which pipelines are faster than shared work explains, and why that can be."""
    processes = study.options["processes"]
    names = [variants.label(name) for name, ratio in found.items() if ratio.median() > processes]
    if not names:
        return []
    text = (
        f"Medians above {processes}×, the number of processes: {'; '.join(names)}. That can be where one process "
        "works on more memory than its caches hold, of which each process of a pipeline has a part"
    )
    less = study.ratios("plain/4") if "plain/4" in set(study.variants["variant"]) else None
    if less is None or less.min() <= 1:
        return [f"{text}; nothing measured here shows it."]
    return [f"{text}: with 4 micro-batches, on less memory at a time, one process is faster too, {spread(less)}."]


_OVER_PEERS = "Against torch's 1F1B and GPipe"


def over_peers(study: Study) -> Claim:
    """Speed over torch's GPipe and 1F1B."""
    peers = [peer for peer in PEERS if peer in set(study.variants["variant"])]
    aim = f"Aim: at least {OVER_PEERS:g}× torch's {IN_WORDS}."
    if len(peers) < len(PEERS):
        return Claim(_OVER_PEERS, NOT_MEASURED, f"{aim} Not all of them were measured.")
    told, reached = [], []
    for name in candidates(study):
        medians = {peer: float(study.ratios(name, peer).median()) for peer in peers}
        worst = min(peers, key=lambda peer: medians[peer])
        reached.append(medians[worst] >= OVER_PEERS)
        told.append(
            f"{variants.label(name)}: at least {spread(study.ratios(name, worst))}, over {variants.label(worst)}"
        )
    return Claim(_OVER_PEERS, word(reached), f"{aim} {'; '.join(told)}.")


_PREDICTED = "Predicted against measured speed"


def predicted(records: PipelineRecords) -> Claim:
    """Predictions from layer times against measured speeds, of all networks."""
    groups: dict[str, list[float]] = {}
    found: dict[str, float] = {}
    for study in (records.main, *records.cuts):
        network = network_words(study.network)
        before, behind = ("", "") if study is records.main else (f"{network}, ", f" on {network}")
        for name, value in _errors(study).items():
            groups.setdefault(f"{before}{variants.group(name)}", []).append(value)
            found[f"{variants.label(name)}{behind}"] = value
    if not found:
        return Claim(_PREDICTED, NOT_MEASURED, "Nothing was predicted.")
    told = [f"{kind}: {span(values, _signed)}" for kind, values in groups.items()]
    worst = max(found, key=lambda name: abs(found[name]))
    text = (
        f"Measured over predicted speed, less one; the prediction knows the layers' times in one process and no "
        f"transfer: {'; '.join(told)}. Furthest off: {worst}, {_signed(found[worst])}."
    )
    within = sum(abs(value) <= 0.1 for value in found.values())
    return Claim(_PREDICTED, f"{within} of {len(found)} within 10 %", text)


def _errors(study: Study) -> dict[str, float]:
    """Measured over predicted speed, less one; plain training's is 1 on both sides."""
    rows = study.variants[(study.variants["variant"] != "plain") & study.variants["predicted"].notna()]
    return {r.variant: float(study.ratios(r.variant).median()) / r.predicted - 1 for r in rows.itertuples()}


def _signed(share: float) -> str:
    return percent(share, "+.0f")


def cut(study: Study) -> Claim:
    """Stages of equal time against groups of as many layers."""
    rows = study.variants.set_index("variant")
    (groups,) = (name for name in rows.index if name.endswith("/groups"))
    best = groups.removesuffix("/groups")
    ratio = study.ratios(best, groups)
    told = []
    for what, name in (("balanced by time", best), ("equal groups", groups)):
        starts, guess = listed(map(str, rows.loc[name, "starts"])), rows.loc[name, "predicted"]
        measured = spread(study.ratios(name))
        told.append(f"{what} (stages start at layers {starts}) predicted {guess:.2f}×, measured {measured}")
    text = f"Over plain training, {variants.label(best)}: {'; '.join(told)}. Balanced over groups: {spread(ratio)}."
    return Claim(f"Balanced stages, {network_words(study.network)}", sign(ratio, "faster", "slower"), text)


def split(study: Study) -> Claim:
    """The split backward pass against the whole one."""
    known = set(study.variants["variant"])
    names = [name for name in study.variants["variant"] if name.endswith("/split") and name[:-6] in known]
    found = {name: study.ratios(name, name.removesuffix("/split")) for name in names}
    told = [f"{variants.label(name.removesuffix('/split'))}: {spread(ratio)}" for name, ratio in found.items()]
    answer = "; ".join(f"{variants.label(name.removesuffix('/split'))}: {sign(ratio, 'pays', 'costs')}"
                     for name, ratio in found.items())  # fmt: skip
    if not found:
        return Claim("Split backward pass", NOT_MEASURED, "No variant was measured with and without it.")
    text = (
        "Speed with gradients of weights as a task of their own, over the same without: "
        f"{'; '.join(told)}. It can pay where a neighbour waits for the input's gradient, as it does without "
        "delays ('exact'); in the asynchronous pipeline messages travel while both neighbours compute."
    )
    return Claim("Split backward pass", answer, text)
