"""The benchmark's figures: ratios round by round, and the table."""

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.pipelines.settings import Settings
from layerpipe2.delays import aligned
from layerpipe2.planning.variants import MEMORY_KINDS, TORCH_PIPELINES, Variant

Row = dict[str, Any]
"""The measurements of a variant: lists with an item per round or per seed."""

_HEAD = ("variant", "samples/s", "speed-up", "(min-max)", "predicted", "torch MB by rank", "RSS MB by rank", "sent kB")


def summarise(rows: Sequence[Row], batch_size: int) -> None:
    """Add to every row samples per second, and its speed over every variant as [median, smallest, largest] ratio.

    A ratio is that of two times of one round (``speed_over``) or one seed (``time_to_target_over``).
    """
    for row in rows:
        row["samples_per_second"] = batch_size / statistics.median(row["seconds_per_batch"])
        for name, source in (("speed_over", "seconds_per_batch"), ("time_to_target_over", "seconds_to_target")):
            row[name] = {other["variant"]: _ratio(other[source], row[source]) for other in rows}


def _ratio(theirs: Sequence[float | None], ours: Sequence[float | None]) -> list[float] | None:
    if not theirs or not ours:
        return None
    pairs = zip(theirs, ours, strict=True)
    ratios = [a / b for a, b in pairs if a is not None and b is not None]
    return [statistics.median(ratios), min(ratios), max(ratios)] if ratios else None


def table(rows: Sequence[Row], network: str, settings: Settings) -> str:
    """The figures as text: medians, and ratios with their smallest and largest value."""
    lines = [
        f"{network} on {settings.dataset}, mini-batches of {settings.batch_size}; {settings.processes} processes "
        f"of one thread; n = {settings.rounds} rounds of {settings.batches} mini-batches",
        *aligned([(*_HEAD, "epochs", "s to target", "speed-up"), *map(_cells, rows)]),
    ]
    if any(row["seconds_to_target"] for row in rows):
        lines.append(f"target: validation accuracy {settings.target:.0%}; n = {settings.seeds} seeds, medians")
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
        *(f"{row['sent_bytes_per_batch'] / 1e3:.1f}", *_target(row)),
    ]


def _spread(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f}x ({ratio[1]:.2f}-{ratio[2]:.2f})"


def _target(row: Row) -> list[str]:
    """Medians over the seeds, if every one of them reached the target: epochs, seconds, speed over plain training."""
    if None in row["seconds_to_target"] or not row["seconds_to_target"]:
        return ["missed" if row["seconds_to_target"] else "", "", ""]
    epochs, seconds = (statistics.median(row[name]) for name in ("epochs_to_target", "seconds_to_target"))
    ratio = row["time_to_target_over"]["plain"]
    return [f"{epochs:g}", f"{seconds:.2f}", "" if ratio is None else f"{ratio[0]:.2f}x"]


def _megabytes(values: Sequence[float]) -> str:
    return " + ".join(f"{value / 1e6:.1f}" for value in values)
