"""What the measurements say of speed; every number is computed from the records."""

from collections.abc import Sequence

import pandas as pd

from paper_figures import variant_style
from paper_figures.records.pipelines import Benchmark, PipelineRecords
from paper_figures.text import listed, median_range, percent, span
from paper_figures.verdicts import AIM, FASTER, SMALLER, WORTH_IT, Answer, Verdict, everywhere

OVER_PLAIN = 1.8
"""The aim for two processes of one thread: speed over one, on a network that halves evenly."""
RIVALS = ("gpipe/2", "gpipe/4", "1f1b/2", "1f1b/4")
"""The variants of torch's pipelines that the aim ``_OVER_TORCH`` is about."""
_OVER_TORCH = 1.25


def over_plain(bench: Benchmark) -> Verdict:
    """Speed over one process."""
    found = {name: bench.ratios(name) for name in bench.candidates}
    speeds = [
        f"{variant_style.label(name)}: {median_range(ratio)}, in {(ratio >= OVER_PLAIN).sum()} of {len(ratio)} rounds"
        for name, ratio in found.items()
    ]
    text = (
        f"Aim: at least {OVER_PLAIN:g}× plain training, median over rounds, {bench.options['processes']} processes of "
        f"one thread against one. {'; '.join(speeds)}. Filling and draining the pipeline once per "
        f"{bench.options['batches']} mini-batches is included."
    )
    title = f"{bench.options['processes']} processes against one"
    answer = everywhere(ratio.median() >= OVER_PLAIN for ratio in found.values())
    evidence = " ".join([text, *_rivals(bench, found), *_superlinear(bench, found)])
    medians = [ratio.median() for ratio in found.values()]
    return Verdict(title, answer, AIM, evidence=(evidence,), details=_reached(answer, medians, OVER_PLAIN))


def _reached(answer: Answer, medians: Sequence[float], aim: float) -> str:
    """The answer with the medians of the pipelines and the aim."""
    return f"{AIM.word(answer)}: {span(medians, lambda ratio: f'{ratio:.2f}×')}, aim {aim:g}×" if medians else ""


def _rivals(bench: Benchmark, found: dict[str, pd.Series]) -> list[str]:
    """Every pipeline over what else one process can do with the same cores or caches."""
    processes = bench.options["processes"]
    rivals = {
        "plain/4": "One process that accumulates gradients of 4 micro-batches",
        f"threads/{processes}": f"One process of {processes} threads",
        "independent": "A training of its own in every process, without messages,",
    }
    sentences = []
    for rival in [name for name in rivals if found and name in set(bench.variants["variant"])]:
        over = [f"{variant_style.label(name)} {median_range(bench.ratios(name, rival))}" for name in found]
        sentences.append(f"{rivals[rival]} runs at {median_range(bench.ratios(rival))}; over it: {'; '.join(over)}.")
    return sentences


def _superlinear(bench: Benchmark, found: dict[str, pd.Series]) -> list[str]:
    """Which pipelines are faster than shared work explains, and why that can be."""
    processes = bench.options["processes"]
    names = [variant_style.label(name) for name, ratio in found.items() if ratio.median() > processes]
    if not names:
        return []
    text = (
        f"Medians above {processes}×, the number of processes: {'; '.join(names)}. That can be where one process "
        "works on more memory than its caches hold, of which each process of a pipeline has a part"
    )
    less = bench.ratios("plain/4") if "plain/4" in set(bench.variants["variant"]) else None
    if less is None or less.min() <= 1:
        return [f"{text}; nothing measured here shows it."]
    return [f"{text}: with 4 micro-batches, on less memory at a time, one process is faster too, {median_range(less)}."]


def over_torch(bench: Benchmark) -> Verdict:
    """Speed over torch's GPipe and 1F1B."""
    title = "Against torch's 1F1B and GPipe"
    aim = f"Aim: at least {_OVER_TORCH:g}× torch's 1F1B and GPipe, at 2 and at 4 micro-batches."
    if not set(RIVALS) <= set(bench.variants["variant"]):
        return Verdict(title, Answer.NOT_TESTED, AIM, evidence=(f"{aim} Not all of them were measured.",))
    every = [name for name in bench.variants["variant"] if variant_style.is_torch(name)]
    medians, rivals = _least(bench, RIVALS)
    text = f"{aim} By medians, at least: {rivals}. Over all of torch's pipelines, zero-bubble ones included, at least: "
    answer = everywhere(median >= _OVER_TORCH for median in medians)
    details = _reached(answer, medians, _OVER_TORCH)
    return Verdict(title, answer, AIM, evidence=(f"{text}{_least(bench, every)[1]}.",), details=details)


def _least(bench: Benchmark, peers: Sequence[str]) -> tuple[list[float], str]:
    """Every pipeline's speed over the fastest of the ``peers``: medians, and in words."""
    medians, speeds = [], []
    for name in bench.candidates:
        ratios = {peer: bench.ratios(name, peer) for peer in peers}
        fastest = min(peers, key=lambda peer: float(ratios[peer].median()))
        medians.append(float(ratios[fastest].median()))
        over = f"{median_range(ratios[fastest])}, over {variant_style.label(fastest)}"
        speeds.append(f"{variant_style.label(name)} {over}")
    return medians, "; ".join(speeds)


def predicted(records: PipelineRecords) -> Verdict:
    """Predictions from layer times against measured speeds, of all networks."""
    title, groups, found = "Predicted against measured speed", dict[str, list[float]](), dict[str, float]()
    for bench in (records.main, *records.cuts):
        before, behind = ("", "") if bench is records.main else (f"{bench.label}, ", f" on {bench.label}")
        predictions = bench.variants.set_index("variant")["predicted"].drop("plain").dropna()
        for name, prediction in predictions.items():  # plain training's is 1 on both sides
            value = float(bench.ratios(name).median()) / prediction - 1
            groups.setdefault(f"{before}{variant_style.group(name)}", []).append(value)
            found[f"{variant_style.label(name)}{behind}"] = value
    if not found:
        return Verdict(title, Answer.NOT_TESTED, AIM, evidence=("Nothing was predicted.",))
    spans = [f"{kind}: {span(values, _signed)}" for kind, values in groups.items()]
    worst = max(found, key=lambda name: abs(found[name]))
    links = "measured links and memory" if "machine" in records.main.provenance else "no transfer"
    text = (
        f"Measured over predicted speed, less one; the prediction knows the layers' times in one process and {links}: "
        f"{'; '.join(spans)}. Furthest off: {worst}, {_signed(found[worst])}."
    )
    within = [abs(value) <= 0.1 for value in found.values()]
    details = f"{sum(within)} of {len(within)} within 10 %"
    return Verdict(title, everywhere(within), AIM, evidence=(text,), details=details)


def _signed(share: float) -> str:
    return percent(share, "+.0f")


def cut(bench: Benchmark) -> Verdict:
    """Stages of equal time against groups of as many units."""
    rows = bench.variants.set_index("variant")
    (groups,) = (name for name in rows.index if name.endswith("/groups"))
    best = groups.removesuffix("/groups")
    ratio = bench.ratios(best, groups)
    cuts = []
    for what, name in (("balanced by time", best), ("equal groups", groups)):
        starts, guess = listed(map(str, rows.loc[name, "starts"])), rows.loc[name, "predicted"]
        measured = median_range(bench.ratios(name))
        cuts.append(f"{what} (stages start at layers {starts}) predicted {guess:.2f}×, measured {measured}")
    text = f"Over plain training, {variant_style.label(best)}: {'; '.join(cuts)}. "
    text += f"Balanced over groups: {median_range(ratio)}."
    return Verdict(f"Balanced stages, {bench.label}", _direction(ratio), FASTER, evidence=(text,))


def split(bench: Benchmark) -> Verdict:
    """The split backward pass against the whole one."""
    title, known = "Split backward pass", set(bench.variants["variant"])
    wholes = [name.removesuffix("/split") for name in bench.variants["variant"] if name.endswith("/split")]
    found = {variant_style.label(name): bench.ratios(f"{name}/split", name) for name in wholes if name in known}
    if not found:
        text = "No variant was measured with and without it."
        return Verdict(title, Answer.NOT_TESTED, WORTH_IT, evidence=(text,))
    speeds = "; ".join(f"{label}: {median_range(ratio)}" for label, ratio in found.items())
    text = (
        f"Speed with gradients of weights as a task of their own, over the same without: {speeds}. It can pay where a "
        "neighbour waits for the input's gradient, as it does without delays ('exact'); in the asynchronous pipeline "
        "messages travel while both neighbours compute."
    )
    answers = {label: _direction(ratio) for label, ratio in found.items()}
    details = "; ".join(f"{label}: {WORTH_IT.word(answer)}" for label, answer in answers.items())
    answer = everywhere(answer == Answer.YES for answer in answers.values())
    return Verdict(title, answer, WORTH_IT, evidence=(text,), details=details)


def _direction(ratio: pd.Series) -> Answer:
    """Whether a ratio is above one, said only if all rounds are on the same side."""
    return Answer.YES if ratio.min() > 1 else Answer.NO if ratio.max() < 1 else Answer.UNDECIDED


def idle(bench: Benchmark) -> Verdict:
    """The bubble, from time stamps."""
    found = bench.steady
    shares = [
        f"{variant_style.label(name)}: {percent(s.mean_idle)} of {s.period:.1f} ms per mini-batch"
        for name, s in found.items()
    ]
    kinds = (variant_style.is_candidate, variant_style.is_torch)
    ours, theirs = ([s.mean_idle for name, s in found.items() if of(name)] for of in kinds)
    reached = Answer.YES if max(ours, default=0) < min(theirs, default=0) else Answer.NO
    answer = reached if ours and theirs else Answer.NOT_TESTED
    text = "Share of time in which a process computes nothing, in the steady state, from time stamps of one run each"
    return Verdict("Bubble", answer, SMALLER, evidence=(f"{text}: {'; '.join(shares)}.",))
