"""Tables of the measurements, as text for readers."""

from __future__ import annotations

import pandas as pd

from layerpipe2.planning.variants import MEMORY_KINDS
from paper_figures.pipelines import variants
from paper_figures.pipelines.answers import percent, spread
from paper_figures.pipelines.bubble import steady
from paper_figures.pipelines.memory import totals
from paper_figures.pipelines.records import Study
from paper_figures.tables import number


def speeds(study: Study) -> pd.DataFrame:
    """Every variant's speed, prediction, memory and messages."""
    rows = study.variants.set_index("variant")
    table = []
    for name in variants.ordered(rows.index):
        row, times = rows.loc[name], study.speeds.loc[study.speeds["variant"] == name, "seconds"]
        table.append(
            {
                "variant": variants.label(name),
                "kind": variants.group(name),
                "samples/s": f"{study.options['batch_size'] / times.median():.0f}",
                "speed over plain": spread(study.ratios(name)),
                "predicted": "–" if pd.isna(row["predicted"]) else f"{row['predicted']:.2f}×",
                "torch's peak by process (MB)": " + ".join(f"{peak / 1e6:.1f}" for peak in row["peak_bytes"]),
                "sent per mini-batch (kB)": number(0)(row["sent_bytes"] / 1e3),
            }
        )
    return pd.DataFrame(table)


def over_peers(study: Study) -> pd.DataFrame:
    """Speed of every asynchronous pipeline over each of torch's."""
    names = [name for name in study.variants["variant"] if variants.is_candidate(name)]
    peers = [name for name in variants.ordered(study.variants["variant"]) if variants.is_peer(name)]
    rows = [{"speed over": variants.label(peer)} | {variants.label(n): spread(study.ratios(n, peer)) for n in names}
            for peer in peers]  # fmt: skip
    return pd.DataFrame(rows)


def idle(study: Study) -> pd.DataFrame:
    """What the time stamps say."""
    rows = []
    for name, events in study.traces.items():
        found = steady(events)
        shares = [percent(share, ".1f") for share in found.idle]
        rows.append(
            {
                "variant": variants.label(name),
                "idle": percent(found.mean_idle, ".1f"),
                "by process": ", ".join(shares),
                "ms per mini-batch": f"{found.period:.1f}",
                "mini-batches": str(found.batches),
            }
        )
    return pd.DataFrame(rows)


def memory(study: Study) -> pd.DataFrame:
    """Bytes per stage, measured and, in brackets where they differ, modelled."""
    table = totals(study.memory)
    rows = []
    for row in table.to_dict("records"):
        cells = {f"{kind} (kB)": _compared(row[kind], row[f"modelled_{kind}"]) for kind in (*MEMORY_KINDS, "total")}
        head = {
            "strategy": variants.label(row["variant"]),
            "processes": str(row["processes"]),
            "stage": str(row["stage"]),
            "delay": str(row["delay"]),
            "copies of the weights": f"{row['copies']:.2f} ({row['modelled_copies']:.2f})",
        }
        rows.append(head | cells)
    return pd.DataFrame(rows)


def _compared(measured: float, modelled: float) -> str:
    return f"{measured / 1e3:.1f}" if measured == modelled else f"{measured / 1e3:.1f} ({modelled / 1e3:.1f})"


def targets(study: Study) -> pd.DataFrame:
    """Time and epochs to the target accuracy."""
    rows = []
    for name in variants.ordered(study.targets["variant"]):
        mine = study.targets[study.targets["variant"] == name]
        done = mine["seconds"].dropna()
        lost = len(mine) - len(done)
        rows.append(
            {
                "variant": variants.label(name),
                "training time (s), median": "–" if lost else f"{done.median():.1f}",
                "smallest–largest": "–" if lost else f"{done.min():.1f}–{done.max():.1f}",
                "epochs, median": "–" if lost else f"{mine['epochs'].median():g}",
                "missed": f"{lost} of {len(mine)} seeds",
            }
        )
    return pd.DataFrame(rows)
