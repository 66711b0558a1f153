"""The benchmark's figures: ratios round by round, and the table."""

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.pipelines.settings import BenchmarkSettings
from layerpipe2.delays import aligned
from layerpipe2.planning.variants import MEMORY_KINDS, TORCH_PIPELINES, Variant

Row = dict[str, Any]
"""The measurements of a variant: lists with an item per round."""

_HEAD = ("variant", "samples/s", "speed-up", "(min-max)", "predicted", "torch MB by rank", "RSS MB by rank", "sent kB")


def summarise(rows: Sequence[Row], batch_size: int) -> None:
    """Add to every row samples per second, and its speed over every variant as [median, smallest, largest] ratio.

    A ratio is that of two times of one round.
    """
    for row in rows:
        row["samples_per_second"] = batch_size / statistics.median(row["seconds_per_batch"])
        times = row["seconds_per_batch"]
        row["speed_over"] = {other["variant"]: _ratio(other["seconds_per_batch"], times) for other in rows}


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def table(rows: Sequence[Row], network: str, settings: BenchmarkSettings) -> str:
    """The figures as text: medians, and ratios with their smallest and largest value."""
    lines = [
        f"{network} on {settings.dataset}, mini-batches of {settings.batch_size}; {settings.processes} processes "
        f"of one thread; n = {settings.rounds} rounds of {settings.batches} mini-batches",
        *aligned([_HEAD, *map(_cells, rows)]),
    ]
    others = ("independent", *TORCH_PIPELINES)
    bases = [row["variant"] for row in rows if Variant.parse(row["variant"]).kind in others]
    asynchronous = [row for row in rows if row["variant"].startswith("async") and row["variant"].count("/") == 1]
    if bases and asynchronous:
        cells = [[name, *(_spread(row["speed_over"][name]) for row in asynchronous)] for name in bases]
        lines += ["", *aligned([["speed over", *(row["variant"] for row in asynchronous)], *cells])]
    return "\n".join(lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Bytes per stage as text: measured, and in brackets what the cost model says."""
    head = ("variant", "processes", "stage", "delay")
    cells = [
        [str(row[name]) for name in head]
        + [f"{row[kind] / 1e3:.1f} ({row[f'modelled_{kind}'] / 1e3:.1f})" for kind in MEMORY_KINDS]
        for row in rows
    ]
    return "\n".join(["kB (modelled):", *aligned([[*head, *MEMORY_KINDS], *cells])])


def _cells(row: Row) -> list[str]:
    speed, low, high = row["speed_over"]["plain"]
    rss = [statistics.median(values) for values in zip(*row["peak_rss_bytes"], strict=True)]
    predicted = row["predicted_speed_up"]
    return [
        *(row["variant"], f"{row['samples_per_second']:.1f}", f"{speed:.2f}x", f"({low:.2f}-{high:.2f})"),
        *("" if predicted is None else f"{predicted:.2f}x", _megabytes(row["peak_torch_bytes"]), _megabytes(rss)),
        f"{row['sent_bytes_per_batch'] / 1e3:.1f}",
    ]


def _spread(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f}x ({ratio[1]:.2f}-{ratio[2]:.2f})"


def _megabytes(values: Sequence[float]) -> str:
    return " + ".join(f"{value / 1e6:.1f}" for value in values)
