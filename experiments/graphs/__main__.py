"""Sampled graphs: what each step from a plain loader to a pipelined one brings, and how well the networks train.

Every round times an epoch of each variant, in turn, and sampling alone. Threads that prepare and train need a core
each: run it on an idle machine. Examples:

  python -m experiments.graphs --out results/graphs
  python -m experiments.graphs --graph wordnet --width 256 --fan-out 15 10 5 --batch-size 1024 --seeds 0
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.graphs.accuracy import accuracies
from experiments.graphs.measure import Bench, GraphSettings
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.lab.cli.options import add_options, read_options
from layerpipe2.lab.graphs.data import load_graph
from layerpipe2.lab.provenance import provenance
from layerpipe2.lab.runs.records import write_csv, write_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment.

    Raises:
        UserError: on a mistake in an option, or if the graph isn't there.
    """
    parser = Parser(prog="python -m experiments.graphs", description=__doc__)
    add_options(parser, GraphSettings)
    parser.add_argument("--out", type=Path, help="folder for a folder named after the graph")
    options = parser.parse_args(arguments)
    settings = read_options(GraphSettings, options)
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    load = os.getloadavg()[0]  # before anything is measured
    data = load_graph(settings.graph, Path(settings.folder) if settings.folder else None)
    bench = Bench(data, settings)
    bench.measure()
    trained = accuracies(data, settings)
    tables = {"times": bench.times, "predictions": bench.predictions, "sampling": bench.sampling}
    tables |= {"spans": bench.spans, "accuracy": trained}
    _show(tables)
    if options.out:
        where = provenance(bench.device)
        where |= {"numba": where["versions"]["numba"], "cores": os.cpu_count(), "load_average": load}
        graph = data.graph
        sizes = {"nodes": graph.num_nodes, "edges": graph.num_edges, "features": graph.features.shape[1]}
        sizes |= {"classes": graph.num_classes, "train_nodes": len(data.train)}
        _write(options.out / settings.graph, tables, {"options": vars(settings), "provenance": where, "graph": sizes})


def _show(tables: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("times", "predictions", "sampling", "accuracy"):
        for row in tables[name]:
            print(name, *(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))


def _write(folder: Path, tables: dict[str, list[dict[str, Any]]], record: dict[str, Any]) -> None:
    for name, rows in tables.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows[0], _rounded(rows))
        else:  # what an earlier command wrote was measured with other options
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_json(folder / "experiment.json", record)
    print(folder)


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


if __name__ == "__main__":
    sys.exit(run_command("graphs", main, None))
