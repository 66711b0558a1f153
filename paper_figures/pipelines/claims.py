"""All claims of the page; those on the bubble and on memory."""

from __future__ import annotations

from paper_figures.pipelines import variants
from paper_figures.pipelines.accuracy_claims import accuracy
from paper_figures.pipelines.answers import NOT_MEASURED, Claim, listed, percent
from paper_figures.pipelines.bubble import steady
from paper_figures.pipelines.memory import totals
from paper_figures.pipelines.records import PipelineRecords, Study
from paper_figures.pipelines.speed_claims import cut, over_peers, over_plain, predicted, split
from paper_figures.pipelines.targets import PEERS


def claims(records: PipelineRecords) -> list[Claim]:
    """All of them, in the order of the page."""
    study = records.main
    return [over_plain(study), over_peers(study), idle(study), held(study), predicted(records), *map(cut, records.cuts),
            split(study), accuracy(study)]  # fmt: skip


def idle(study: Study) -> Claim:
    """The bubble, from time stamps."""
    found = {name: steady(events) for name, events in study.traces.items()}
    told = [
        f"{variants.label(name)}: {percent(s.mean_idle)} of {s.period:.1f} ms per mini-batch"
        for name, s in found.items()
    ]
    ours = [s.mean_idle for name, s in found.items() if variants.is_candidate(name)]
    theirs = [s.mean_idle for name, s in found.items() if variants.is_peer(name)]
    answer = "smaller" if max(ours, default=1.0) < min(theirs, default=1.0) else "not smaller"
    text = "Share of time in which a process computes nothing, in the steady state, from time stamps of one run each"
    return Claim("Bubble", answer if ours and theirs else NOT_MEASURED, f"{text}: {'; '.join(told)}.")


def held(study: Study) -> Claim:
    """Memory against the cost model."""
    if study.memory.empty:
        return Claim("Memory", NOT_MEASURED, "No memory was measured.")
    table = totals(study.memory)
    off = (table["total"] / table["modelled_total"] - 1).abs()
    worst = table.loc[off.idxmax()]
    exact = all((table[kind] == table[f"modelled_{kind}"]).all() for kind in ("parameters", "optimizer", "activations"))
    first = table[table["stage"] == 0].sort_values("processes")
    told = [
        f"{variants.label(str(name))} {listed(f'{row.copies:.2f}' for row in rows.itertuples())}"
        for name, rows in first.groupby("variant", sort=False)
    ]
    delays = listed(str(delay) for delay in sorted(first["delay"].unique()))
    text = (
        f"Copies of its weights that the first stage holds as history at a delay of {delays} updates: "
        f"{'; '.join(told)}. Weights, optimizer and activations in flight equal the cost model "
        f"{'byte for byte' if exact else 'NOT byte for byte'}. With the history, the sum is off by at most "
        f"{percent(off.max(), '.2g')} ({variants.label(worst['variant'])}, stage "
        f"{worst['stage']}/{worst['processes']}); a history pads every parameter to 64 elements "
        f"and keeps a table of decays."
    )
    text += f" {_peaks(study)}"
    return Claim("Memory", "as modelled" if exact and off.max() <= 0.02 else "not as modelled", text)


def _peaks(study: Study) -> str:
    """What a pipeline costs beside one process, all processes together."""
    peaks = study.variants.set_index("variant")["peak_bytes"].map(sum) / 1e6
    shown = [name for name in peaks.index if name in ("plain", *PEERS) or variants.is_candidate(name)]
    told = [f"{variants.label(name)} {peaks[name]:.1f}" for name in shown]
    return f"Most that torch held at one time, all processes together, in MB: {'; '.join(told)}."
