"""What the measurements say of memory; every number is computed from the records."""

import pandas as pd

from paper_figures import variant_style
from paper_figures.claims.pipelines.speed import RIVALS
from paper_figures.records.pipelines import Benchmark
from paper_figures.tables.pipelines import totals
from paper_figures.text import listed, percent, span
from paper_figures.verdicts import MODEL, Answer, Verdict


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
