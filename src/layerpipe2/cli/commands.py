"""The commands: what each is for, and the options of those that need nothing but the library."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from layerpipe2.cli.options import integers, within
from layerpipe2.errors import LARGEST

OWN, STUDY = "layerpipe2.cli", "layerpipe2.lab.cli"
"""Homes of commands: those that work on a training of one's own, and those on the networks of the study."""


class Command(NamedTuple):
    """A command.

    Attributes:
        purpose: for the help.
        homes: packages with a module of its name that runs it, and a module ``commands`` with its options. One in
            :data:`STUDY` can what that in :data:`OWN` can, too.
    """

    purpose: str
    homes: tuple[str, ...]


COMMANDS = {
    "train": Command("train one network and write its record", (STUDY,)),
    "delays": Command("show stages, delays, and what happens tick by tick", (STUDY,)),
    "balance": Command("time the units, cut them into stages, find the fastest training", (OWN, STUDY)),
    "tune": Command("search for the best settings of a run with Optuna", (STUDY,)),
    "advise": Command("measure, before training, whether it needs a weight history", (OWN, STUDY)),
    "launch": Command("start the processes of a pipeline on this machine", (OWN,)),
    "info": Command("show data, networks, strategies, device and versions", (STUDY,)),
    "stability": Command("show how large a step delayed gradients allow", (STUDY,)),
    "derive": Command("derive a pipeline's delays by retiming, with proofs", (OWN, STUDY)),
    "schedule": Command("simulate and draw pipeline schedules", (OWN,)),
}
"""Name -> command."""

_MODULE = "your own training: FUNCTION returns a PipelinedModule and the loader of its training batches"

_BALANCE = """\
examples:
  layerpipe2 balance --module examples.own_training:training --stages 4
  layerpipe2 balance --module examples.own_training:training --gigabits 1 --latency 0.1      a machine per process

First units and the best cut, whose prediction leaves out transfers; then what else the same processes could do, with
transfers, by this machine's memory and link: one process with all threads, data parallel training, torch's pipelines,
this library with three histories. Ends with the fastest one. MB are those of the process that holds most, as modelled.
Times are those of this machine, now: let nothing else run. Whether training bears late gradients says advise.
In Python: layerpipe2.planning.profiling.profile, then balance.balanced, and predict.Predictor.
"""

_ADVISE = """\
examples:
  layerpipe2 advise --module examples.own_training:training --strategies ema-span pair

Trains by exact stashing until the pipeline is full and for --steps updates more, and measures what the latest weights
and each average would do instead: how far they are from the right weights, and how far their gradients point elsewhere.
Ends with one sentence: drop the history, keep one, or lower the learning rate.
"""

_LAUNCH = """\
examples:
  layerpipe2 launch --processes 2 -- train.py --epochs 5                  two processes here
  layerpipe2 launch --processes 2 -- -m layerpipe2 train --epochs 5
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 0 --master 10.0.0.1:29500 --secret-file job -- train.py
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 1 --master 10.0.0.1:29500 --secret-file job -- train.py

The processes find RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them. When one fails, all
end, with one line that names it. docs/cluster.md shows Slurm and the network's settings.
"""

_DERIVE = """\
examples:
  layerpipe2 derive                                       four layers, a stage each: every step, then the proofs
  layerpipe2 derive --layers 5 --groups 2,2,1             layers of one stage share its delay
  layerpipe2 derive --layers 3 --convention pipedream     PipeDream's delays, S instead of 2S
  layerpipe2 derive --layers 3 --step 2                   the registers after one step
  layerpipe2 derive --layers 3 --export dot --out pipeline.dot

The graph of training has a node for every forward task (F), activation gradient (A), weight gradient (G) and update
(U) of a layer. Step 0 is sequential training; 1 puts registers at input and output; 2 delays gradients, by as little
as the loops allow; 3 and 4 retime, until every boundary between stages has a register in each direction. The tables
count registers, one tick each. Formats of --export: table, edges, dot (Graphviz), json, graphml.
"""

_SCHEDULE = """\
examples:
  layerpipe2 schedule                                     all schedules on four processors with equal stages
  layerpipe2 schedule layerpipe2 --processors 3           its chart: F3 is the forward pass of batch 3
  layerpipe2 schedule zb-h1 --batches 6 --until 30        as much of it as you like
  layerpipe2 schedule --processors 8 --forward 1 --activation 1 --weight 2
  layerpipe2 schedule spikepipe --network vgg --processors 8    list schedules of a spiking network's tasks

Schedules: gpipe, 1f1b, interleaved, zb-h1 (these update once per --batches micro-batches), pipedream, layerpipe,
layerpipe2 (these update after every mini-batch). Processors have a stage each, in `interleaved` two of half the
length, and links cost nothing. Times are in any unit. spikepipe is another model: see docs/theory/spikepipe.md.
"""

MOST_TASKS = 2048
"""Most processors times batches of a schedule: what is simulated in some 5 s."""
SIMULATED = {"batches": 8, "forward": 1, "activation": 1, "weight": 1, "until": None}
SPIKEPIPE = {"network": "mlp", "array": 128, "time_steps": 8}
"""Options of ``schedule`` for all but spikepipe and for spikepipe alone -> their defaults."""


def _balance(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _BALANCE
    add = parser.add_argument
    add("--module", metavar="MODULE:FUNCTION", help=_MODULE)
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
    parser.epilog = _ADVISE
    add = parser.add_argument
    add("--module", metavar="MODULE:FUNCTION", help=_MODULE)
    text = "updates to measure over; default: 100"
    add("--steps", type=within(int, 1, LARGEST), default=100, metavar="N", help=text)
    add("--strategies", nargs="+", metavar="NAME", help="measure these beside latest; default: all that aren't exact")
    add_json(parser)


def _launch(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _LAUNCH
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
    parser.epilog = _DERIVE
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
    parser.epilog = _SCHEDULE
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


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option of commands whose tables programs may want."""
    parser.add_argument("--json", action="store_true", help="print the same as JSON, for programs")


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "balance": _balance,
    "advise": _advise,
    "launch": _launch,
    "derive": _derive,
    "schedule": _schedule,
}
"""Command -> what adds its options."""
