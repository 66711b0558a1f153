"""Tables of the measurements, as text for readers."""

from __future__ import annotations

import pandas as pd

from layerpipe2.planning.variants import MEMORY_KINDS, Variant
from paper_figures import variant_style
from paper_figures.records.bubble import steady
from paper_figures.records.pipelines import Benchmark, PipelineRecords
from paper_figures.text import median_range, number, percent


def speeds(bench: Benchmark) -> pd.DataFrame:
    """Every variant's speed, prediction, memory and messages."""
    rows = bench.variants.set_index("variant")
    table = []
    for name in variant_style.ordered(rows.index):
        row, times = rows.loc[name], bench.speeds.loc[bench.speeds["variant"] == name, "seconds"]
        table.append(
            {
                "variant": variant_style.label(name),
                "kind": variant_style.group(name),
                "samples/s": f"{bench.options['batch_size'] / times.median():.0f}",
                "speed over plain": median_range(bench.ratios(name)),
                "predicted": "–" if pd.isna(row["predicted"]) else f"{row['predicted']:.2f}×",
                "torch's peak by process (MB)": " + ".join(f"{peak / 1e6:.1f}" for peak in row["peak_bytes"]),
                "sent per mini-batch (kB)": number(0)(row["sent_bytes"] / 1e3),
            }
        )
    return pd.DataFrame(table)


def over_torch(bench: Benchmark) -> pd.DataFrame:
    """Speed of every asynchronous pipeline over each of torch's."""
    peers = [name for name in variant_style.ordered(bench.variants["variant"]) if variant_style.is_torch(name)]
    speeds = {variant_style.label(n): [median_range(bench.ratios(n, p)) for p in peers] for n in bench.candidates}
    return pd.DataFrame({"speed over": [variant_style.label(peer) for peer in peers]} | speeds)


def idle(bench: Benchmark) -> pd.DataFrame:
    """What the time stamps say."""
    rows = []
    for name, events in bench.traces.items():
        found = steady(events)
        shares = [percent(share, ".1f") for share in found.idle]
        rows.append(
            {
                "variant": variant_style.label(name),
                "idle": percent(found.mean_idle, ".1f"),
                "by process": ", ".join(shares),
                "ms per mini-batch": f"{found.period:.1f}",
                "mini-batches": str(found.batches),
            }
        )
    return pd.DataFrame(rows)


def totals(memory: pd.DataFrame) -> pd.DataFrame:
    """The rows with strategy, copies (of a stage's weights, as history), rest and total (bytes), and ``modelled_``."""
    table = memory.assign(strategy=[Variant.parse(name).strategy for name in memory["variant"]])
    for prefix in ("", "modelled_"):
        table[f"{prefix}total"] = table[[f"{prefix}{kind}" for kind in MEMORY_KINDS]].sum(axis=1)
        table[f"{prefix}copies"] = table[f"{prefix}history"] / table[f"{prefix}parameters"]
    return table.assign(rest=table["total"] - table["history"])


def memory(bench: Benchmark) -> pd.DataFrame:
    """Bytes per stage, measured and, in brackets where they differ, modelled."""
    table = totals(bench.memory)
    rows = []
    for row in table.to_dict("records"):
        cells = {f"{kind} (kB)": _compared(row[kind], row[f"modelled_{kind}"]) for kind in (*MEMORY_KINDS, "total")}
        head = {
            "strategy": variant_style.label(row["variant"]),
            "processes": str(row["processes"]),
            "stage": str(row["stage"]),
            "delay": str(row["delay"]),
            "copies of the weights": f"{row['copies']:.2f} ({row['modelled_copies']:.2f})",
        }
        rows.append(head | cells)
    return pd.DataFrame(rows)


def _compared(measured: float, modelled: float) -> str:
    return f"{measured / 1e3:.1f}" if measured == modelled else f"{measured / 1e3:.1f} ({modelled / 1e3:.1f})"


def catalogue(records: PipelineRecords) -> dict[str, pd.DataFrame]:
    """File stem -> table, of what was measured."""
    bench = records.main
    found = {"speed": speeds(bench), "speed_over_torch": over_torch(bench)}
    found |= {f"speed_{other.network}": speeds(other) for other in records.cuts}
    found |= {"idle": idle(bench)} if bench.traces else {}
    found |= {"memory": memory(bench)} if not bench.memory.empty else {}
    return found | ({"time_to_target": targets(bench)} if not bench.targets.empty else {})


def targets(bench: Benchmark) -> pd.DataFrame:
    """Time and epochs to the target accuracy."""
    rows = []
    for name in variant_style.ordered(bench.targets["variant"]):
        mine = bench.targets[bench.targets["variant"] == name]
        done = mine["seconds"].dropna()
        lost = len(mine) - len(done)
        rows.append(
            {
                "variant": variant_style.label(name),
                "training time (s), median": "–" if lost else f"{done.median():.1f}",
                "smallest–largest": "–" if lost else f"{done.min():.1f}–{done.max():.1f}",
                "epochs, median": "–" if lost else f"{mine['epochs'].median():g}",
                "missed": f"{lost} of {len(mine)} seeds",
            }
        )
    return pd.DataFrame(rows)
