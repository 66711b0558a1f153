"""Tables of the measurements, as text for readers."""

import pandas as pd

from layerpipe2.planning.variants import MEMORY_KINDS, Variant
from paper_figures import variant_style
from paper_figures.records.pipelines import Benchmark, PipelineRecords
from paper_figures.tables import regimes, time_to_loss
from paper_figures.text import median_range, percent


def speeds(bench: Benchmark) -> pd.DataFrame:
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


def over_torch(bench: Benchmark) -> pd.DataFrame:
    """Speed of every asynchronous pipeline over each of torch's."""
    peers = [name for name in variant_style.ordered(bench.variants["variant"]) if variant_style.is_torch(name)]
    speeds = {variant_style.label(n): [median_range(bench.ratios(n, p)) for p in peers] for n in bench.candidates}
    return pd.DataFrame({"speed over": [variant_style.label(peer) for peer in peers]} | speeds)


def idle(bench: Benchmark) -> pd.DataFrame:
    """How much of their time the processes wait, by variant, from the time stamps."""
    found = bench.steady.values()
    columns = {
        "variant": [variant_style.label(name) for name in bench.traces],
        "idle": [percent(s.mean_idle, ".1f") for s in found],
        "by process": [", ".join(percent(share, ".1f") for share in s.idle) for s in found],
        "ms per mini-batch": [f"{s.period:.1f}" for s in found],
        "mini-batches": [str(s.batches) for s in found],
    }
    return pd.DataFrame(columns)


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


def catalogue(records: PipelineRecords) -> dict[str, pd.DataFrame]:
    """File stem -> table of the measurements."""
    bench = records.main
    found = {"speed": speeds(bench), "speed_over_torch": over_torch(bench)}
    found |= {f"speed_{other.network}": speeds(other) for other in records.cuts}
    if records.regimes:
        found |= {"regimes": regimes.speeds(records.regimes), "regime_rules": regimes.rules(records.regimes)}
        found |= {"regime_errors": regimes.errors(records.regimes)}
    found |= {"time_to_loss": time_to_loss.seconds(records.time_to_loss)} if records.time_to_loss else {}
    found |= {"idle": idle(bench)} if bench.traces else {}
    return found | ({"memory": memory(bench)} if not bench.memory.empty else {})
