"""The benchmark's figures: ratios round by round, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.pipelines.settings import Settings
from layerpipe2.planning.variants import MEMORY_KINDS, TORCH_PIPELINES, Variant

Row = dict[str, Any]
"""What was measured of a variant: lists with an item per round or per seed."""

_HEAD = (
    "variant                 samples/s  speed-up     (min-max)  predicted   torch MB by rank   RSS MB by rank   sent kB"
    "  epochs  s to target  speed-up"
)


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
        _HEAD,
        *map(_line, rows),
    ]
    if any(row["seconds_to_target"] for row in rows):
        lines.append(f"target: validation accuracy {settings.target:.0%}; n = {settings.seeds} seeds, medians")
    synchronous = [row["variant"] for row in rows if Variant.parse(row["variant"]).kind in TORCH_PIPELINES]
    asynchronous = [row for row in rows if row["variant"].startswith("async") and row["variant"].count("/") == 1]
    if synchronous and asynchronous:
        lines += ["", f"{'speed over':22} " + " ".join(f"{row['variant']:>26}" for row in asynchronous)]
    for name in synchronous if asynchronous else ():
        lines.append(f"{name:22} " + " ".join(f"{_spread(row['speed_over'][name]):>26}" for row in asynchronous))
    return "\n".join(lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Bytes per stage as text: measured, and in brackets what the cost model says."""
    lines = [
        f"{'variant':18} processes stage delay " + " ".join(f"{kind:>21}" for kind in MEMORY_KINDS) + "   kB (modelled)"
    ]
    for row in rows:
        cells = [f"{row[kind] / 1e3:.1f} ({row[f'modelled_{kind}'] / 1e3:.1f})" for kind in MEMORY_KINDS]
        head = f"{row['variant']:18} {row['processes']:9d} {row['stage']:5d} {row['delay']:5d} "
        lines.append(head + " ".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def _line(row: Row) -> str:
    speed, low, high = row["speed_over"]["plain"]
    rss = [statistics.median(values) for values in zip(*row["peak_rss_bytes"], strict=True)]
    predicted = row["predicted_speed_up"]
    return (
        f"{row['variant']:22} {row['samples_per_second']:10.1f} {speed:8.2f}x {f'({low:.2f}-{high:.2f})':>13} "
        f"{'' if predicted is None else f'{predicted:.2f}x':>10} {_megabytes(row['peak_torch_bytes']):>18} "
        f"{_megabytes(rss):>16} {row['sent_bytes_per_batch'] / 1e3:9.1f} {_target(row)}"
    ).rstrip()


def _spread(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f}x ({ratio[1]:.2f}-{ratio[2]:.2f})"


def _target(row: Row) -> str:
    """Medians over the seeds, if every one of them reached the target."""
    if None in row["seconds_to_target"] or not row["seconds_to_target"]:
        return " missed" if row["seconds_to_target"] else ""
    epochs, seconds = (statistics.median(row[name]) for name in ("epochs_to_target", "seconds_to_target"))
    ratio = row["time_to_target_over"]["plain"]
    return f"{epochs:7g} {seconds:12.2f} {'' if ratio is None else f'{ratio[0]:8.2f}x'}"


def _megabytes(values: Sequence[float]) -> str:
    return " + ".join(f"{value / 1e6:.1f}" for value in values)
