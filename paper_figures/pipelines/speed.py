"""Speed: what the measurements say of it, its tables and its figure."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import style, variant_style
from paper_figures.pipelines.benchmark import Benchmark, pipelines
from paper_figures.text import dataset_label, listed, median_range, percent, span
from paper_figures.verdicts import AIM, FASTER, WORTH_IT, Answer, Verdict, beside_one, everywhere

OVER_PLAIN = 1.8
"""The aim for two processes of one thread: speed over one, on a network that halves evenly."""


RIVALS = ("gpipe/2", "gpipe/4", "1f1b/2", "1f1b/4")
"""The variants of torch's pipelines that the aim ``_OVER_TORCH`` is about."""


_OVER_TORCH = 1.25


@pipelines.claim(place=4)
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


@pipelines.claim(place=5)
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


@pipelines.claim(place=8)
def predicted(bench: Benchmark, cuts: list[Benchmark]) -> Verdict:
    """Predictions from layer times against measured speeds, of all networks."""
    title, groups, found = "Predicted against measured speed", dict[str, list[float]](), dict[str, float]()
    for one in (bench, *cuts):
        before, behind = ("", "") if one is bench else (f"{one.label}, ", f" on {one.label}")
        predictions = one.variants.set_index("variant")["predicted"].drop("plain").dropna()
        for name, prediction in predictions.items():  # plain training's is 1 on both sides
            value = float(one.ratios(name).median()) / prediction - 1
            groups.setdefault(f"{before}{variant_style.group(name)}", []).append(value)
            found[f"{variant_style.label(name)}{behind}"] = value
    if not found:
        return Verdict(title, Answer.NOT_TESTED, AIM, evidence=("Nothing was predicted.",))
    spans = [f"{kind}: {span(values, _signed)}" for kind, values in groups.items()]
    worst = max(found, key=lambda name: abs(found[name]))
    links = "measured links and memory" if "machine" in bench.provenance else "no transfer"
    text = (
        f"Measured over predicted speed, less one; the prediction knows the layers' times in one process and {links}: "
        f"{'; '.join(spans)}. Furthest off: {worst}, {_signed(found[worst])}."
    )
    within = [abs(value) <= 0.1 for value in found.values()]
    details = f"{sum(within)} of {len(within)} within 10 %"
    return Verdict(title, everywhere(within), AIM, evidence=(text,), details=details)


def _signed(share: float) -> str:
    return percent(share, "+.0f")


@pipelines.claim(place=9, each="bench in cuts")
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
    return Verdict(f"Balanced stages, {bench.label}", beside_one(ratio.min(), ratio.max()), FASTER, evidence=(text,))


@pipelines.claim(place=10)
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
    answers = {label: beside_one(ratio.min(), ratio.max()) for label, ratio in found.items()}
    details = "; ".join(f"{label}: {WORTH_IT.word(answer)}" for label, answer in answers.items())
    answer = everywhere(answer == Answer.YES for answer in answers.values())
    return Verdict(title, answer, WORTH_IT, evidence=(text,), details=details)


@pipelines.table("speed")
def speed_table(bench: Benchmark) -> pd.DataFrame:
    """Every variant's speed, prediction, memory and messages."""
    rows = bench.variants.set_index("variant")
    rows = rows.loc[variant_style.ordered(rows.index)]
    seconds = bench.speeds.groupby("variant")["seconds"].median()[rows.index]
    columns = {
        "variant": [variant_style.label(name) for name in rows.index],
        "kind": [variant_style.group(name) for name in rows.index],
        "samples/s": [f"{bench.options['batch_size'] / median:.0f}" for median in seconds],
        "speed over plain": [median_range(bench.ratios(name)) for name in rows.index],
        "predicted": ["–" if pd.isna(predicted) else f"{predicted:.2f}×" for predicted in rows["predicted"]],
        "torch's peak by process (MB)": [" + ".join(f"{p / 1e6:.1f}" for p in peaks) for peaks in rows["peak_bytes"]],
        **(_held(rows["held"]) if rows["held"].notna().all() else {}),
        "sent per mini-batch (kB)": [f"{sent / 1e3:.0f}" for sent in rows["sent_bytes"]],
    }
    return pd.DataFrame(columns)


def _held(ranks: pd.Series) -> dict[str, list[str]]:
    """Of all processes together, in MB: their peaks, and what makes them; the rest changes with every pass."""
    sums = pd.DataFrame([pd.DataFrame(found).sum() for found in ranks]) / 1e6
    sums["rest"] = 2 * sums["peak"] - sums.sum(axis=1)
    names = {"peak": "together (MB)", "parameters": "weights (MB)", "optimizer": "optimizer (MB)"}
    names |= {"history": "history (MB)", "rest": "activations, gradients, messages (MB)"}
    return {title: [f"{value:.1f}" for value in sums[name]] for name, title in names.items()}


@pipelines.table("speed_over_torch")
def over_torch_table(bench: Benchmark) -> pd.DataFrame:
    """Speed of every asynchronous pipeline over each of torch's."""
    peers = [name for name in variant_style.ordered(bench.variants["variant"]) if variant_style.is_torch(name)]
    speeds = {variant_style.label(n): [median_range(bench.ratios(n, p)) for p in peers] for n in bench.candidates}
    return pd.DataFrame({"speed over": [variant_style.label(peer) for peer in peers]} | speeds)


_ROW = 0.17  # inches


_PREDICTED: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "white"}


_PREDICTED |= {"markeredgecolor": "#222222", "markeredgewidth": 1.1, "linestyle": ""}


_AIM: dict[str, Any] = {"color": "#444444", "linewidth": 0.8, "linestyle": (0, (4, 2))}


@pipelines.figure("speed")
def speed(bench: Benchmark) -> Figure:
    """Speed over plain training per variant: bars are medians over rounds, dots rounds, diamonds predictions."""
    predicted = bench.variants.set_index("variant")["predicted"].drop("plain").dropna()
    dots: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 2.6, "color": "#222222"}
    figure, axis, places = _chart(bench.variants["variant"])
    for name, place in places.items():
        ratios = bench.ratios(name)
        _bar(axis, place, ratios.median(), name)
        line = [ratios.median()] * 2, [place - 0.36, place + 0.36]
        axis.plot(*line, color=variant_style.color(name), linewidth=1.6)
        axis.plot(ratios, [place] * len(ratios), zorder=4, **dots)
        if name in predicted:
            axis.plot([predicted[name]], [place], zorder=3, **_PREDICTED)
    axis.axvline(1, color="#444444", linewidth=0.8)
    axis.axvline(OVER_PLAIN, **_AIM)
    axis.set(xlabel="speed over plain training in one process", xlim=(0, None))
    handles = [Patch(facecolor="#8c8c8c", alpha=0.6, label="median"), style.handle("one round", **dots)]
    handles += [style.handle("predicted from layer times", **_PREDICTED)]
    entries = [*handles, style.handle(f"aim: {OVER_PLAIN:g}×", **_AIM)]
    style.legend(figure, entries, title="How fast each training is, measured and predicted")
    o, dataset = bench.options, dataset_label(bench.options["dataset"])
    setting = f"{bench.label} on {dataset}, mini-batches of {o['batch_size']}; {o['processes']} processes"
    style.note(figure, f"{setting} of one thread; n={o['rounds']} rounds of {o['batches']} mini-batches.")
    return figure


def _bar(axis: Any, place: float, length: float, name: str) -> None:
    axis.barh(place, length, height=0.72, color=variant_style.color(name), alpha=0.45, linewidth=0)


def _chart(variants: Iterable[str]) -> tuple[Figure, Any, dict[str, float]]:
    """A figure, its axis, and a row for every variant, under a heading for every kind."""
    names = variant_style.ordered(variants)
    figure, axes = style.canvas(1.0 + _ROW * (len(names) + 4))
    axis, row, places = axes[0, 0], 0.0, dict[str, float]()
    looks = {"fontsize": 7, "fontweight": "bold", "va": "center", "zorder": 5}
    for kind, members in groupby(names, variant_style.group):
        axis.text(0.005, row, kind, transform=axis.get_yaxis_transform(), **looks)
        places |= {name: row + i for i, name in enumerate(members, start=1)}
        row = max(places.values()) + 1
    axis.set_yticks(list(places.values()), [variant_style.label(name) for name in places])
    axis.set_ylim(row - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    return figure, axis, places


pipelines.table("speed_{bench.network}", each="bench in cuts")(speed_table)
