"""What the benchmark of pipelines wrote, as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from paper_figures import variant_style
from paper_figures.text import network_label

_ROW = ("variant", "predicted_speed_up", "peak_torch_bytes", "sent_bytes_per_batch")


@dataclass(frozen=True)
class Benchmark:
    """One network.

    Attributes:
        network: its name.
        options: of the command line that measured it.
        provenance: commit, versions, device, cores, load before the measurement.
        variants: a row per variant: variant, predicted (speed over plain, or absent), peak_bytes (list by rank),
            sent_bytes (per mini-batch), starts (list).
        speeds: a row per variant and round: variant, round, seconds (per mini-batch), ratio (speed over plain).
        targets: a row per variant and seed: variant, seed, seconds and epochs to the target; absent if missed.
        memory: a row per variant, number of processes and stage, with bytes of every kind, measured and ``modelled_``.
        traces: variant, torch's last -> its events: rank, stage, what, batch, start, stop (ms from the first event).
    """

    network: str
    options: dict[str, Any]
    provenance: dict[str, Any]
    variants: pd.DataFrame
    speeds: pd.DataFrame
    targets: pd.DataFrame
    memory: pd.DataFrame
    traces: dict[str, pd.DataFrame]

    @property
    def label(self) -> str:
        """The network's name for readers; the benchmark's own network by what it is."""
        return "Eight equal convolutions" if self.network == "even" else network_label(self.network)

    @property
    def candidates(self) -> list[str]:
        """Variants that the aims are about, as measured."""
        return [name for name in self.variants["variant"] if variant_style.is_candidate(name)]

    def ratios(self, variant: str, base: str = "plain") -> pd.Series:
        """Speed of a variant over another one, round by round."""
        times = self.speeds.pivot(index="round", columns="variant", values="seconds")
        return times[base] / times[variant]


@dataclass(frozen=True)
class PipelineRecords:
    """The network whose pipelines are compared, and networks on which cuts are."""

    main: Benchmark
    cuts: list[Benchmark]


def load(folder: Path, network: str) -> PipelineRecords:
    """Read ``network``'s record, and those of all networks that were also cut into groups of equal size.

    Raises:
        UserError: if the first is missing, or one is broken.
    """
    path = folder / f"{network}.json"
    if not path.exists():
        raise UserError(f"no record {path}; measure first: make pipelines")
    others = [_benchmark(other) for other in sorted(folder.glob("*.json")) if other != path]
    cuts = [bench for bench in others if bench.variants["variant"].str.endswith("/groups").any()]
    return PipelineRecords(_benchmark(path), cuts)


def _benchmark(path: Path) -> Benchmark:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = record["rows"]
        times = [(row["variant"], i, time) for row in rows for i, time in enumerate(row["seconds_per_batch"])]
        speeds = pd.DataFrame(times, columns=["variant", "round", "seconds"])
        traced = sorted(record["traces"], key=lambda name: (variant_style.is_torch(name), name))
        plain = speeds[speeds["variant"] == "plain"].set_index("round")["seconds"]
        return Benchmark(
            network=record["network"],
            options=record["options"],
            provenance=record["provenance"],
            variants=_variants(rows),
            speeds=speeds.assign(ratio=speeds["round"].map(plain) / speeds["seconds"]),
            targets=_targets(rows),
            memory=pd.DataFrame(record["memory"]),
            traces={name: read_trace(path.parent / record["traces"][name]) for name in traced},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"record {path} is broken ({reason}); measure again: make pipelines") from None


def _variants(rows: list[dict[str, Any]]) -> pd.DataFrame:
    names = {"predicted_speed_up": "predicted", "peak_torch_bytes": "peak_bytes", "sent_bytes_per_batch": "sent_bytes"}
    kept = pd.DataFrame([{key: row[key] for key in (*_ROW, "starts")} for row in rows]).rename(columns=names)
    return kept.astype({"predicted": float})


def _targets(rows: list[dict[str, Any]]) -> pd.DataFrame:
    found = [
        (row["variant"], seed, seconds, epochs)
        for row in rows
        for seed, (seconds, epochs) in enumerate(zip(row["seconds_to_target"], row["epochs_to_target"], strict=True))
    ]
    table = pd.DataFrame(found, columns=["variant", "seed", "seconds", "epochs"])
    return table.astype({"seconds": float, "epochs": float})


def read_trace(path: Path) -> pd.DataFrame:
    """Events of a Chrome trace: rank, stage, what, batch, start and stop in ms."""
    events = [e for e in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if e["ph"] == "X"]
    rows = [
        (e["pid"], e["tid"], e["cat"], int(e["name"].split()[-1]), e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3)
        for e in events
    ]
    return pd.DataFrame(rows, columns=["rank", "stage", "what", "batch", "start", "stop"])
