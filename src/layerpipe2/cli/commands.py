"""The options of the commands that need nothing but the library."""

import argparse
from collections.abc import Callable

from layerpipe2.cli.options import integers, within
from layerpipe2.cli.own import check
from layerpipe2.errors import LARGEST

_MODULE = "your own training: FUNCTION returns a network (or stages), data and loss, or a PipelinedModule and data"

MOST_TASKS = 2048
"""Most processors times batches of a schedule: what is simulated in some 5 s."""
SIMULATED = {"batches": 8, "forward": 1, "activation": 1, "weight": 1, "until": None}
SPIKEPIPE = {"network": "mlp", "array": 128, "time_steps": 8}
"""Options of ``schedule`` for all but spikepipe and for spikepipe alone -> their defaults."""


def _balance(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_module(parser)
    add("--stages", type=within(int, 1, LARGEST), default=2, metavar="N", help="stages, one per process; default: 2")
    add("--repeats", type=within(int, 1, 10_000), default=9, metavar="N", help="timed steps; default: 9")
    text = "threads per process; default: 1"
    add("--threads", type=within(int, 1, 1024), default=1, metavar="N", help=text)
    text = "plan for stages that recompute them (strategy stash)"
    add("--recompute-activations", action="store_true", help=text)
    text = "Gbit/s between machines of a process each; default: all processes are on this one"
    add("--gigabits", type=within(float, 1e-6, 1e6), metavar="X", help=text)
    text = "ms that a message between them takes beside; default: as between processes here"
    add("--latency", type=within(float, 0, 1e6), metavar="X", help=text)


def _advise(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_module(parser)
    add_stages(parser)
    text = "updates of each training; default: 200"
    add("--steps", type=within(int, 1, LARGEST), default=200, metavar="N", help=text)
    text = "train these beside stash; default: latest, ema-lsq and pair"
    add("--strategies", nargs="+", metavar="NAME", help=text)
    add_json(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TEXT", help="run only the checks with this in their names")


def _launch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "processes to start on this machine; default: 1"
    add("--processes", type=within(int, 1, 1024), default=1, metavar="N", help=text)
    add("--nodes", type=within(int, 1, LARGEST), default=1, metavar="M", help="number of machines; default: 1")
    text = "which of them this is; default: 0"
    add("--node-rank", type=within(int, 0, LARGEST), default=0, metavar="R", help=text)
    text = "address of node 0; default: one machine alone takes a free port"
    add("--master", metavar="HOST:PORT", help=text)
    text = "seconds to wait for the other machines; default: 300"
    add("--timeout", type=within(float, 1e-3, 1e6), default=300.0, metavar="S", help=text)
    text = "file with the job's secret, the same on all machines; default: $LAYERPIPE2_SECRET, or one of its own"
    add("--secret-file", metavar="FILE", help=text)
    text = "threads per process; default: $OMP_NUM_THREADS, or the cores shared out"
    add("--threads", type=within(int, 1, 1024), metavar="T", help=text)
    text = "a Python script, or -m MODULE; arguments"
    add("command_line", nargs=argparse.REMAINDER, metavar="-- SCRIPT", help=text)


def _derive(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--layers", type=within(int, 1, 128), metavar="N", help="a chain of N layers; default: 4")
    add("--group-size", type=within(int, 1, LARGEST), metavar="N", help="units per stage; default: 1")
    text = "units of every stage, input side first; default: equal groups"
    add("--groups", type=integers, metavar="N,N,..", help=text)
    add("--convention", default="layerpipe2", metavar="NAME", help="layerpipe2, pipedream or none; default: layerpipe2")
    add("--step", metavar="STEP", help="show this step only: 0, 1, 2, 3, 4, 4.2, ...")
    add("--export", metavar="FORMAT", help="format of the graph of --step (default: the last)")
    add("--out", metavar="FILE", help="write there; default: the terminal")


def _schedule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="draw this one; default: compare all")
    count, time = within(int, 1, MOST_TASKS), within(float, 1e-6, 1e6)
    add("--processors", type=count, default=4, metavar="N", help="number of processors; default: 4")
    text = "micro-batches per update of the synchronous schedules; default: 8"
    add("--batches", type=count, metavar="N", help=text)
    add("--forward", type=time, metavar="X", help="time of a stage's forward pass; default: 1")
    add("--activation", type=time, metavar="X", help="time of its activation gradient; default: 1")
    add("--weight", type=time, metavar="X", help="time of its weight gradient; default: 1")
    text = "end of the chart; default: what fits, at most 24 columns"
    add("--until", type=within(float, 1e-6, 1e10), metavar="X", help=text)
    add_json(parser)
    add = parser.add_argument_group("spikepipe").add_argument
    add("--network", metavar="NAME", help="spiking network: mlp, vgg or residual; default: mlp")
    text = "rows and columns of every processor's systolic array; default: 128"
    add("--array", type=within(int, 1, LARGEST), metavar="N", help=text)
    add("--time-steps", type=within(int, 1, 64), metavar="N", help="time steps of a sample; default: 8")


def add_module(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a training of one's own."""
    parser.add_argument("--module", metavar="MODULE:FUNCTION", help=_MODULE)
    parser.set_defaults(check=check)


def add_stages(parser: argparse._ActionsContainer) -> None:
    """Add the option of commands that cut a network of one's own as it is to be trained."""
    text = "cut the network of --module into so many, equally slow; default: 2"
    parser.add_argument("--stages", type=within(int, 1, LARGEST), metavar="N", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands whose tables programs may want."""
    parser.add_argument("--json", action="store_true", help="print the same as JSON, for programs")


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "balance": _balance,
    "advise": _advise,
    "check": _check,
    "launch": _launch,
    "derive": _derive,
    "schedule": _schedule,
}
"""Command -> what adds its options."""
