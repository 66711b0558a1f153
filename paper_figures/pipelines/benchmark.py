"""What the benchmark of pipelines wrote, as tables; how much of its time each process computes, from time stamps."""

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError, plain_name
from layerpipe2.lab.runs.records import read_json
from paper_figures import variant_style
from paper_figures.page import Page
from paper_figures.read import BUSY, one_line
from paper_figures.text import dataset_label, listed, network_label

pipelines = Page("pipelines", "time_to_loss", "regimes", "speed", "timeline", "memory", "method")
MAIN_NETWORK = "even"
"""The network whose measured pipelines are compared."""


_REMEDY = "measure again: make pipelines"


COMPUTING = ("forward", "recompute", "backward", "weights")
"""What is not waiting; everything between it is: for messages, for turns, and copying messages."""


_VARIANTS = {"variant": "variant", "predicted": "predicted_speed_up", "peak_bytes": "peak_torch_bytes"}


_VARIANTS |= {"sent_bytes": "sent_bytes_per_batch", "starts": "starts"}


@dataclass(frozen=True)
class Steady:
    """The middle of a trace, neither filling nor draining.

    Attributes:
        start, stop: ms; both are ends of an update of the last process.
        batches: mini-batches between them.
        idle: share of the processes' time in which they do not compute, in [0, 1], by rank.
    """

    start: float
    stop: float
    batches: int
    idle: tuple[float, ...]

    @property
    def period(self) -> float:
        """Time in ms per mini-batch."""
        return (self.stop - self.start) / self.batches

    @property
    def mean_idle(self) -> float:
        """Share of all processes' time."""
        return sum(self.idle) / len(self.idle)


def _steady(events: pd.DataFrame) -> Steady:
    """The steady state of a trace of at least 6 mini-batches and 4 per process more or less.

    The first third is left out (the pipeline fills, memory is found), and as many mini-batches at the end as
    LayerPipe2's pipeline holds, twice the number of further processes.
    """
    last = int(events["rank"].max())
    updates = events[(events["rank"] == last) & (events["what"] == "weights")].groupby("batch")["stop"].max()
    first, end = len(updates) // 3, len(updates) - 1 - 2 * last
    start, stop = float(updates.iloc[first]), float(updates.iloc[end])
    shares = tuple(_idle(events[events["rank"] == rank], start, stop) for rank in range(last + 1))
    return Steady(start, stop, end - first, shares)


def _idle(events: pd.DataFrame, start: float, stop: float) -> float:
    mine = events[events["what"].isin(COMPUTING)]
    busy = (mine["stop"].clip(upper=stop) - mine["start"].clip(lower=start)).clip(lower=0).sum()
    return float(1 - busy / (stop - start))


@dataclass(frozen=True)
class Benchmark:
    """One network.

    Attributes:
        network: its name.
        options: of the command line that measured it.
        provenance: commit, versions, device, cores, load before the measurement.
        variants: a row per variant: variant, predicted (speed over plain, or absent), peak_bytes (list by rank),
            sent_bytes (per mini-batch), starts (list), held (by rank: ``peak`` bytes and, of it, those of
            ``parameters``, ``optimizer`` and ``history``; absent from records before they were told apart).
        speeds: a row per variant and round: variant, round, seconds (per mini-batch).
        memory: a row per variant, number of processes and stage, with bytes of every kind, measured and ``modelled_``.
        traces: variant, torch's last -> its events: rank, stage, what, batch, start, stop (ms from the first event).
    """

    network: str
    options: dict[str, Any]
    provenance: dict[str, Any]
    variants: pd.DataFrame
    speeds: pd.DataFrame
    memory: pd.DataFrame
    traces: dict[str, pd.DataFrame]

    @property
    def label(self) -> str:
        """The network's name for readers."""
        return network_label(self.network)

    @property
    def candidates(self) -> list[str]:
        """Variants that the aims are about, as measured."""
        return [name for name in self.variants["variant"] if variant_style.is_candidate(name)]

    @property
    def steady(self) -> dict[str, Steady]:
        """The steady states of the traces."""
        return {name: _steady(events) for name, events in self.traces.items()}

    def ratios(self, variant: str, base: str = "plain") -> pd.Series:
        """Speed of a variant over another one, round by round."""
        times = self.speeds.pivot(index="round", columns="variant", values="seconds")
        return times[base] / times[variant]


def _benchmark(path: Path) -> Benchmark:
    with one_line(f"record {path}", _REMEDY):
        record = read_json(path, _REMEDY)
        rows = record["rows"]
        columns = [{name: row[key] for name, key in _VARIANTS.items()} for row in rows]
        variants = pd.DataFrame(columns).assign(held=[row.get("held_bytes") for row in rows])
        traced = sorted(record["traces"], key=lambda name: (variant_style.is_torch(name), name))
        return Benchmark(
            network=plain_name(record["network"], "network"),  # part of the names of tables
            options=record["options"],
            provenance=record["provenance"],
            variants=variants.astype({"predicted": float}),
            speeds=_speeds(rows),
            memory=pd.DataFrame(record["memory"]),
            traces={name: _trace(path.parent, record["traces"][name]) for name in traced},
        )


def _speeds(rows: list[dict[str, Any]]) -> pd.DataFrame:
    found = [(row["variant"], i, seconds) for row in rows for i, seconds in enumerate(row["seconds_per_batch"])]
    return pd.DataFrame(found, columns=["variant", "round", "seconds"]).astype({"seconds": float})


def _trace(folder: Path, name: str) -> pd.DataFrame:
    parts = [plain_name(part, "part of a trace's path") for part in PurePosixPath(name).parts]
    rows = [
        (e["pid"], e["tid"], e["cat"], int(e["name"].split()[-1]), e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3)
        for e in read_json(folder.joinpath(*parts), _REMEDY)["traceEvents"]
        if e["ph"] == "X"
    ]
    return pd.DataFrame(rows, columns=["rank", "stage", "what", "batch", "start", "stop"])


@pipelines.records
def load(results: Path) -> dict[str, Any]:
    """Read the main network's record, and those of all networks that were also cut into groups of equal size.

    Raises:
        UserError: if the first is missing, or one is broken.
    """
    folder = results / "pipelines"
    path = folder / f"{MAIN_NETWORK}.json"
    if not path.exists():
        raise UserError(f"no record {path}; measure first: make pipelines")
    others = [_benchmark(other) for other in sorted(folder.glob("*.json")) if other != path]
    cuts = [bench for bench in others if bench.variants["variant"].str.endswith("/groups").any()]
    return {"bench": _benchmark(path), "cuts": cuts, "folder": folder}


@pipelines.value
def setup(bench: Benchmark, regimes: Any, time_to_loss: Any) -> dict[str, Any]:
    """Where all of it was measured."""
    wheres = [bench.provenance, *(other.provenance for other in (regimes, time_to_loss) if other)]
    load = max(where["busy_cores"] for where in wheres)
    threaded = f"threads/{bench.options['processes']}"
    return {
        "dataset": dataset_label(bench.options["dataset"]),
        "quick": bench.options["quick"] or any(where["options"]["quick"] for where in wheres[1:]),
        "dirty": any(where["dirty"] for where in wheres),
        "commits": listed(dict.fromkeys(str(where["commit"])[:12] for where in wheres)),
        "load": load,
        "busy": load > BUSY,
        "threads": variant_style.label(threaded) if threaded in set(bench.variants["variant"]) else "",
        "threads_predicted": bench.variants.set_index("variant")["predicted"].get(threaded, math.nan) > 0,
    }
