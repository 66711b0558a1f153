"""What the experiment on sampled graphs wrote, a folder per graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import read_json
from paper_figures.page import Page
from paper_figures.read import BUSY, TableForm, one_line, read_table

graphs = Page("graphs")


_REMEDY = "measure again: make graphs"


_TIMES, _SPAN = ("train", "prepare", "transfer", "epoch"), ("thread", "what", "batch", "start", "stop")


_PARTS = {
    "options": ("network", "width", "batch_size", "fan_out", "rounds", "batches", "epochs", "lr"),
    "provenance": ("commit", "dirty", "versions", "device", "cores", "numba", "load_average"),
    "graph": ("nodes", "edges", "features", "classes", "train_nodes"),
}


_PREDICTED = ("preparation", "training", "measured", "maximum", "queue")


def _form(key: tuple[str, ...], numbers: tuple[str, ...]) -> TableForm:
    return TableForm((*key, *numbers), key=key)


_FORMS = {
    "times": _form(("round", "variant"), _TIMES),
    "predictions": _form(("round", "variant"), _PREDICTED),
    "sampling": _form(("round", "sampler", "threads"), ("wall", "cpu")),
    "spans": TableForm(("variant", *_SPAN)),
}


_ACCURACY = _form(("network", "strategy", "seed"), ("accuracy", "loss"))


@dataclass(frozen=True)
class GraphRecord:
    """One graph; times are ms per mini-batch.

    Attributes:
        name: the folder's.
        options: of the command line that measured it.
        provenance: commit, versions, device, cores, load before the measurement.
        sizes: nodes, edges, features, classes, train_nodes.
        times: round, variant, train, prepare (waiting for a mini-batch), transfer, epoch (all of it).
        predictions: round, variant, preparation, training, measured, maximum and queue (predicted).
        sampling: round, sampler, threads, wall and cpu.
        spans: variant, thread, what, batch, start, stop (ms).
        accuracy: network, strategy, seed, accuracy (fraction), loss; none if nothing was trained.
    """

    name: str
    options: dict[str, Any]
    provenance: dict[str, Any]
    sizes: dict[str, int]
    times: pd.DataFrame
    predictions: pd.DataFrame
    sampling: pd.DataFrame
    spans: pd.DataFrame
    accuracy: pd.DataFrame | None

    @property
    def is_busy(self) -> bool:
        """Whether other work shared the processor, so that threads competed for cores."""
        return float(self.provenance["load_average"]) > BUSY

    @property
    def epoch_batches(self) -> int:
        """Mini-batches of a whole epoch."""
        return -(-self.sizes["train_nodes"] // int(self.options["batch_size"]))

    @property
    def timed_batches(self) -> int:
        """Mini-batches that are timed, and called an epoch, in each round."""
        return min(int(self.options["batches"]), self.epoch_batches)

    @property
    def variants(self) -> list[str]:
        """In the order in which one thing more is switched on."""
        return list(self.times["variant"].unique())

    def speed_up(self, variant: str) -> pd.Series:
        """Over the plain loader, which is the first variant, round by round."""
        epochs = self.times.pivot(index="round", columns="variant", values="epoch")
        return epochs[self.variants[0]] / epochs[variant]

    def sampling_ratio(self, threads: int) -> pd.Series:
        """Wall time of the numpy sampler, or for several threads that of one thread, over that of the compiled one."""
        wall = self.sampling.set_index(["round", "sampler", "threads"])["wall"].unstack([1, 2])
        base = wall["plain numpy", 1] if threads == 1 else wall["compiled", 1]
        return base / wall["compiled", threads]


@graphs.records
def load(results: Path) -> dict[str, list[GraphRecord]]:
    """Read the records of all graphs, by their names.

    Raises:
        UserError: if there are none, or a table is missing or broken.
    """
    folder = results / "graphs"
    found = [_record(path.parent) for path in sorted(folder.glob("*/experiment.json"))]
    if not found:
        raise UserError(f"no records in {folder}; measure first: make graphs")
    return {"records": found}


def _record(folder: Path) -> GraphRecord:
    record = read_json(folder / "experiment.json", _REMEDY)
    with one_line(f"record {folder / 'experiment.json'}", _REMEDY):
        options, where, sizes = ({key: record[part][key] for key in keys} for part, keys in _PARTS.items())
        float(where["load_average"])
    tables = {name: read_table(folder / f"{name}.csv", form, _REMEDY) for name, form in _FORMS.items()}
    path = folder / "accuracy.csv"
    accuracy = read_table(path, _ACCURACY, _REMEDY) if path.exists() else None
    return GraphRecord(folder.name, options, where, sizes, **tables, accuracy=accuracy)
