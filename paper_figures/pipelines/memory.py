"""Memory: what the measurements say of it, beside the cost model, its table and its figure."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layerpipe2.lab.looks import look, ordered
from layerpipe2.planning.variants import MEMORY_KINDS, Variant
from layerpipe2.strategies import find_strategy
from paper_figures import style, variant_style
from paper_figures.pipelines.benchmark import Benchmark, pipelines
from paper_figures.pipelines.speed import RIVALS
from paper_figures.text import listed, percent, span
from paper_figures.verdicts import MODEL, Answer, Verdict


@pipelines.claim(place=7)
def memory(bench: Benchmark) -> Verdict:
    """Memory against the cost model, and what pipelines need beside others."""
    if bench.memory.empty:
        return Verdict("Memory", Answer.NOT_TESTED, MODEL, evidence=("No memory was measured.",))
    table, peaks = totals(bench.memory), bench.variants.set_index("variant")["peak_bytes"].map(sum) / 1e6
    thriftiest = list(peaks[peaks.index.map(variant_style.is_torch)].nsmallest(1).index)
    shown = {"plain", *RIVALS, *thriftiest, *bench.candidates}
    amounts = [f"{variant_style.label(name)} {peak:.1f}" for name, peak in peaks.items() if name in shown]
    off = (table["total"] / table["modelled_total"] - 1).abs()
    worst = table.loc[off.idxmax()]
    exact = all((table[kind] == table[f"modelled_{kind}"]).all() for kind in ("parameters", "optimizer", "activations"))
    text = (
        f"{_copies(table)} Weights, optimizer and activations in flight equal the cost model "
        f"{'byte for byte' if exact else 'NOT byte for byte'}. With the history, the sum is off by at most "
        f"{percent(off.max(), '.2g')} ({variant_style.label(worst['variant'])}, stage "
        f"{worst['stage']}/{worst['processes']}); a history pads every parameter to 64 elements and keeps a table of "
        f"decays. Most that torch held at one time, all processes together, in MB: {'; '.join(amounts)}."
        f"{_in_flight(bench, peaks)}"
    )
    answer = Answer.YES if exact and off.max() <= 0.02 else Answer.NO
    details = "; ".join([MODEL.word(answer), *_beside(bench, peaks, thriftiest), *_saved(bench, peaks)])
    return Verdict("Memory", answer, MODEL, evidence=(text,), details=details)


def _in_flight(bench: Benchmark, peaks: pd.Series) -> str:
    """Where the memory of an asynchronous pipeline goes, and what shorter delays and recomputation spare."""
    if bench.variants["held"].isna().any():
        return ""  # of records that don't tell a process' bytes apart
    first = totals(bench.memory).query("stage == 0")
    shares = span(first["activations"] / first["total"], percent)
    text = f" Activations in flight are {shares} of what first stages hold, since a stage keeps those of delay + 1 "
    sentences = [f"{text}mini-batches."]
    for what, option in (("With half the delay", "/pipedream"), ("With activations computed again", "/recompute")):
        fewer = [
            f"{variant_style.label(name)}, has {peaks[name]:.1f} MB instead of {peaks[name.removesuffix(option)]:.1f}"
            for name in peaks.index
            if name.endswith(option) and name.removesuffix(option) in peaks
        ]
        sentences += [f"{what} {'; '.join(fewer)}."] if fewer else []
    return " ".join(sentences)


def _copies(table: pd.DataFrame) -> str:
    """Weight history of first stages."""
    first = table[table["stage"] == 0].sort_values("processes")
    copies = [
        f"{variant_style.label(str(name))} {listed(f'{row.copies:.2f}' for row in rows.itertuples())}"
        for name, rows in first.groupby("variant", sort=False)
    ]
    delays = listed(sorted(first["delay"].unique()))
    start = f"Copies of its weights that the first stage holds as history at a delay of {delays} updates"
    return f"{start}: {'; '.join(copies)}."


def _beside(bench: Benchmark, peaks: pd.Series, thriftiest: list[str]) -> list[str]:
    """How many times as much as others the candidates hold."""
    ours = bench.candidates
    if not ours:
        return []
    times = [
        f"{span(peaks[ours] / peaks[base], '{:.1f}×'.format)} as much as "
        + ("one process" if base == "plain" else f"the thriftiest of torch's pipelines ({variant_style.label(base)})")
        for base in (*thriftiest, "plain")
    ]
    return [f"all processes of an asynchronous pipeline together hold {listed(times)}"]


def _saved(bench: Benchmark, peaks: pd.Series) -> list[str]:
    """What moving averages spare of the stash pipeline's peak."""
    stash, texts = "async/stash", list[str]()
    for name in filter(variant_style.is_average, bench.candidates if stash in peaks else ()):
        less = float(peaks[stash] - peaks[name])
        amount = f"{abs(less):.1f} MB ({percent(abs(less) / peaks[stash], '.1f')})"
        verb = f"saves {amount} of" if less > 0 else f"adds {amount} to"
        texts.append(f"{variant_style.history(name)} {verb} {variant_style.history(stash)}'s peak")
    return texts


def totals(memory: pd.DataFrame) -> pd.DataFrame:
    """The rows with strategy, copies (of a stage's weights, as history), rest and total (bytes), and ``modelled_``."""
    table = memory.assign(strategy=[Variant.parse(name).strategy for name in memory["variant"]])
    for prefix in ("", "modelled_"):
        table[f"{prefix}total"] = table[[f"{prefix}{kind}" for kind in MEMORY_KINDS]].sum(axis=1)
        table[f"{prefix}copies"] = table[f"{prefix}history"] / table[f"{prefix}parameters"]
    return table.assign(rest=table["total"] - table["history"])


def _measured(bench: Benchmark) -> bool:
    return not bench.memory.empty


@pipelines.table("memory", when=_measured)
def memory_table(bench: Benchmark) -> pd.DataFrame:
    """Bytes per stage, measured and, in brackets where they differ, modelled."""
    table = totals(bench.memory)
    copies = zip(table["copies"], table["modelled_copies"], strict=True)
    columns = {
        "strategy": [variant_style.label(name) for name in table["variant"]],
        **{name: table[name].map(str) for name in ("processes", "stage", "delay")},
        "copies of the weights": [f"{measured:.2f} ({modelled:.2f})" for measured, modelled in copies],
    }
    for kind in (*MEMORY_KINDS, "total"):
        pairs = zip(table[kind] / 1e3, table[f"modelled_{kind}"] / 1e3, strict=True)
        columns[f"{kind} (kB)"] = [f"{a:.1f}" if a == b else f"{a:.1f} ({b:.1f})" for a, b in pairs]
    return pd.DataFrame(columns)


_REST = "#c4c4c4"


_MODEL: dict[str, Any] = {"marker": "_", "markersize": 11, "markeredgewidth": 1.6, "color": "#000000", "linestyle": ""}


@pipelines.figure("memory", when=_measured)
def draw(bench: Benchmark) -> Figure:
    """Above, weight history in copies of a stage's weights; below, all that it is known to hold, in MB."""
    table = totals(bench.memory).assign(nothing=0.0)
    counts = sorted(table["processes"].unique())
    strategies = ordered(table["strategy"])
    ratios = [count + 0.5 for count in counts]
    figure, axes = style.canvas(4.2, len(counts), 2, sharey="row", sharex="col", width_ratios=ratios)
    for column, count in enumerate(counts):
        mine = table[table["processes"] == count]
        axes[0, column].set_title(f"{count} processes, one stage each")
        _draw_bars(axes[0, column], mine, strategies, "copies", 1.0, "nothing")
        _draw_bars(axes[1, column], mine, strategies, "total", 1e6, "rest")
    axes[0, 0].set_ylabel("weight history\n(copies of the stage's weights)")
    axes[1, 0].set_ylabel("held by the stage (MB)")
    labels = {strategy: f"history: {find_strategy(strategy).label}" for strategy in strategies}
    bars = [Patch(facecolor=look(strategy).colour, label=label) for strategy, label in labels.items()]
    rest = Patch(facecolor=_REST, label="weights, optimizer, activations")
    entries = [*bars, rest, style.handle("cost model", **_MODEL)]
    style.legend(figure, entries, 3, "What each process holds, measured and modelled")
    note = "Bars: measured in the processes. Not in them: gradients, messages under way, torch's working memory."
    style.note(figure, note)
    return figure


def _draw_bars(axis: Any, table: pd.DataFrame, strategies: list[str], column: str, unit: float, base: str) -> None:
    width = 0.8 / len(strategies)
    for place, strategy in enumerate(strategies):
        mine = table[table["strategy"] == strategy].sort_values("stage")
        xs = mine["stage"] + (place - (len(strategies) - 1) / 2) * width
        bottom = mine[base] / unit
        axis.bar(xs, bottom, 0.92 * width, color=_REST, linewidth=0)
        height, color = mine[column] / unit - bottom, look(strategy).colour
        axis.bar(xs, height, 0.92 * width, bottom=bottom, color=color, linewidth=0)
        axis.plot(xs, mine[f"modelled_{column}"] / unit, clip_on=False, **_MODEL)
    stages = table.drop_duplicates("stage").sort_values("stage")
    texts = [f"stage {row.stage}\ndelay {row.delay}" for row in stages.itertuples()]
    axis.set_xticks(stages["stage"], texts)
    axis.grid(visible=False, axis="x")
    axis.tick_params(axis="x", length=0)
