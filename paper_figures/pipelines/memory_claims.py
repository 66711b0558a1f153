"""What the measurements say of memory; every number is computed from the records."""

from __future__ import annotations

import pandas as pd

from paper_figures.pipelines import variants
from paper_figures.pipelines.answers import NOT_MEASURED, Claim, candidates, listed, percent, span
from paper_figures.pipelines.memory import totals
from paper_figures.pipelines.records import Study
from paper_figures.pipelines.targets import PEERS


def held(study: Study) -> Claim:
    """Memory against the cost model, and what pipelines hold beside others."""
    if study.memory.empty:
        return Claim("Memory", NOT_MEASURED, "No memory was measured.")
    table = totals(study.memory)
    off = (table["total"] / table["modelled_total"] - 1).abs()
    worst = table.loc[off.idxmax()]
    exact = all((table[kind] == table[f"modelled_{kind}"]).all() for kind in ("parameters", "optimizer", "activations"))
    text = (
        f"{_copies(table)} Weights, optimizer and activations in flight equal the cost model "
        f"{'byte for byte' if exact else 'NOT byte for byte'}. With the history, the sum is off by at most "
        f"{percent(off.max(), '.2g')} ({variants.label(worst['variant'])}, stage "
        f"{worst['stage']}/{worst['processes']}); a history pads every parameter to 64 elements and keeps a table of "
        f"decays. {_peaks(study)}"
    )
    answers = ["as modelled" if exact and off.max() <= 0.02 else "not as modelled"]
    return Claim("Memory", "; ".join([*answers, *_beside(study), *_saved(study)]), text)


def _copies(table: pd.DataFrame) -> str:
    """Weight history of first stages."""
    first = table[table["stage"] == 0].sort_values("processes")
    told = [
        f"{variants.label(str(name))} {listed(f'{row.copies:.2f}' for row in rows.itertuples())}"
        for name, rows in first.groupby("variant", sort=False)
    ]
    delays = listed(str(delay) for delay in sorted(first["delay"].unique()))
    return (
        f"Copies of its weights that the first stage holds as history at a delay of {delays} updates: "
        f"{'; '.join(told)}."
    )


def _megabytes(study: Study) -> pd.Series:
    """Most that torch held at one time by variant, the peaks of all its processes together."""
    return study.variants.set_index("variant")["peak_bytes"].map(sum) / 1e6


def _thriftiest(peaks: pd.Series) -> list[str]:
    """The one of torch's pipelines that holds least, if any was measured."""
    return sorted((name for name in peaks.index if variants.is_peer(name)), key=lambda name: float(peaks[name]))[:1]


def _peaks(study: Study) -> str:
    """What a pipeline costs beside one process."""
    peaks = _megabytes(study)
    wanted = ("plain", *PEERS, *_thriftiest(peaks), *candidates(study))
    told = [f"{variants.label(name)} {peaks[name]:.1f}" for name in peaks.index if name in wanted]
    return f"Most that torch held at one time, all processes together, in MB: {'; '.join(told)}."


def _beside(study: Study) -> list[str]:
    """How many times as much as others the candidates hold."""
    peaks, ours = _megabytes(study), candidates(study)
    if not ours:
        return []
    told = [
        f"{span(peaks[ours] / peaks[base], '{:.1f}×'.format)} as much as "
        + ("one process" if base == "plain" else f"the thriftiest of torch's pipelines ({variants.label(base)})")
        for base in (*_thriftiest(peaks), "plain")
    ]
    return [f"all processes of an asynchronous pipeline together hold {listed(told)}"]


def _saved(study: Study) -> list[str]:
    """What moving averages spare of the stash pipeline's peak."""
    peaks, stash = _megabytes(study), "async/stash"
    if stash not in peaks:
        return []
    told = []
    for name in (name for name in candidates(study) if variants.is_average(name)):
        less = float(peaks[stash] - peaks[name])
        amount = f"{abs(less):.1f} MB ({percent(abs(less) / peaks[stash], '.1f')})"
        verb = f"saves {amount} of" if less > 0 else f"adds {amount} to"
        told.append(f"{variants.history(name)} {verb} {variants.history(stash)}'s peak")
    return told
