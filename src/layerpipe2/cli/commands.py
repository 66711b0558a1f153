"""The commands: what each is for, its options and the text of its help."""

import argparse
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import model_validator

from layerpipe2.cli import launch, tune
from layerpipe2.cli.options import PIPELINE, add_options, within
from layerpipe2.delays import MOST_UPDATES
from layerpipe2.errors import LARGEST, UserError, look_up
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Positive, Real, real, setting


class GridOptions(Checked):
    """What ``delays`` draws."""

    ticks: int | None = setting(
        None, "", "columns of the grid; default: what fits, at most 2 x stages + 1", ge=1, le=MOST_UPDATES
    )


class BalanceOptions(Checked):
    """What ``balance`` measures."""

    stages: int = setting(2, "", "stages, one per process", ge=1, le=LARGEST)
    repeats: int = setting(9, "", "timed steps", ge=1, le=10_000)
    recompute_activations: bool = setting(False, "", "plan for stages that recompute them (strategy stash)")
    gigabits: Positive | None = setting(
        None, "", "Gbit/s between machines of a process each; default: all processes are on this one", le=1e6
    )
    latency: Real | None = setting(
        None, "", "ms that a message between them takes beside; default: as between processes here", ge=0, le=1e6
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.latency is not None and self.gigabits is None:
            raise UserError("--latency is that of a link between machines; give its --gigabits, too")
        return self


class DeriveOptions(Checked):
    """Options of ``derive``: what it derives."""

    layers: int | None = setting(None, "network", "a chain of N layers; default: 4", ge=1, le=128)
    network: str | None = setting(None, "network", "a network; `layerpipe2 info` lists them; default: a chain")
    group_size: int | None = setting(None, "pipeline", "units per stage; default: 1", ge=1, le=LARGEST)
    groups: tuple[int, ...] | None = setting(
        None, "pipeline", "units of every stage, input side first; default: equal groups", strict=False
    )
    convention: str = setting("layerpipe2", "pipeline", "layerpipe2, pipedream or none")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.layers is not None and self.network is not None:
            raise UserError("--layers and --network are both given; give one of them")
        if self.network is not None:
            look_up(NETWORKS, self.network, "network")
        return self


SPIKEPIPE = "spikepipe"
"""Heading of the options of that schedule."""
_TASKS = 2048
"""Most processors times batches: what is simulated in some 5 s."""
_Time = Annotated[float, *real(ge=1e-6, le=1e6)]
"""Of a task, in any unit: sums of such times are exact enough to be drawn."""


class ScheduleOptions(Checked):
    """What ``schedule`` simulates."""

    processors: int = setting(4, "", "number of processors", ge=1, le=_TASKS)
    batches: int = setting(8, "", "micro-batches per update of the synchronous schedules", ge=1, le=_TASKS)
    forward: _Time = setting(1, "", "time of a stage's forward pass")
    activation: _Time = setting(1, "", "time of its activation gradient")
    weight: _Time = setting(1, "", "time of its weight gradient")
    until: Positive | None = setting(None, "", "end of the chart; default: what fits, at most 24 columns")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.processors * max(self.processors, self.batches) > _TASKS:
            raise UserError(
                f"--processors {self.processors} with --batches {self.batches} take too long; give smaller ones: "
                f"processors x batches, and processors x processors, of at most {_TASKS}"
            )
        if self.until is not None and self.until > MOST_UPDATES * min(self.forward, self.activation, self.weight):
            raise UserError(f"--until is {self.until:g}, more than {MOST_UPDATES:,d} columns; give an earlier end")
        return self


class SpikepipeOptions(Checked):
    """What ``schedule spikepipe`` simulates."""

    network: str = setting("mlp", SPIKEPIPE, "spiking network: mlp, vgg or residual")
    array: int = setting(128, SPIKEPIPE, "rows and columns of every processor's systolic array", ge=1, le=LARGEST)
    time_steps: int = setting(8, SPIKEPIPE, "time steps of a sample", ge=1, le=64)


_TRAIN = """\
examples:
  layerpipe2 train                                     an MLP on digits, every unit a stage, exact stashing
  layerpipe2 train --strategy ema-window --group-size 2 --out window.json
  layerpipe2 train --strategy sequential --out sequential.json        the same network without a pipeline
  layerpipe2 train --config window.json --seed 1                      that run again with another seed
  layerpipe2 train --network resnet18 --dataset cifar100 --batch-size 128 --max-steps 300 --augment
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints           stop it with Ctrl-C, then go on bit for bit:
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints --resume
  layerpipe2 train --epochs 50 --mlflow                               watch it meanwhile: make ui

Accuracies are fractions in [0, 1]. The same settings give the same record, except for its times.
"""

_DELAYS = """\
examples:
  layerpipe2 delays                                    every unit of the MLP is a stage: delay 2 x stages after it
  layerpipe2 delays --network vgg --group-size 3       three units share a stage and its delay
  layerpipe2 delays --json                             the same for programs
  layerpipe2 delays --convention pipedream             asynchronous 1F1B: half the delay
  layerpipe2 delays --group-size 3 --convention custom --delays 4,4,0

In the grid, F3 is the forward pass of mini-batch 3 and B3 its backward pass. A stage's delay is the number of its
updates between the two. `copies` are the parameter copies that hardware holds beside the latest weights: what exact
stashing stores and a moving average reconstructs.
"""

_BALANCE = """\
examples:
  layerpipe2 balance                                   the MLP on digits in two stages, with SGD's update
  layerpipe2 balance --optimizer adamw --threads 2 --repeats 25
  layerpipe2 balance --network resnet18 --stages 2     time every unit, cut where the slower stage is fastest
  layerpipe2 balance --network vgg --dataset cifar10 --batch-size 128 --stages 4 --strategy ema-span
  layerpipe2 balance --network gpt --dataset python-docs --batch-size 8
  layerpipe2 balance --width 1024 --gigabits 1 --latency 0.1    two machines instead of two processes on this one

First units and the best cut, whose prediction leaves out transfers; then what else the same processes could do, with
transfers, by this machine's memory and link: one process with all threads, data parallel training, torch's pipelines,
this library with three histories. Ends with the fastest one. MB are those of the process that holds most, as modelled.
Times are those of this machine, now: let nothing else run. Whether training bears late gradients says advise.
In Python: layerpipe2.planning.profiling.profile, then balance.balanced, and predict.Predictor.
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

_INFO = """\
examples:
  layerpipe2 info                                       the digits, the lists of names, this machine
  layerpipe2 info --dataset cifar10 --data-root data    is it there and complete?
  layerpipe2 info --schema > run.schema.json            what an editor needs to complete and check settings
"""

_STABILITY = """\
examples:
  layerpipe2 stability                                    the MLP, every unit a stage, momentum 0.9
  layerpipe2 stability --network vgg --group-size 3 --momentum 0
  layerpipe2 stability --convention pipedream --nesterov
  layerpipe2 stability --group-size 3 --convention custom --delays 4,4,0

Descent with a gradient that is d updates old converges on a quadratic of curvature c if learning rate x c is below a
bound: 2 sin(pi / (4d + 2)) without momentum. Momentum raises it where there is no delay, and lowers it sharply where
there is one. The curvature of a network is not known beforehand: read the table as how much smaller the learning rate
must be than in sequential training.
"""

_DERIVE = """\
examples:
  layerpipe2 derive                                       four layers, a stage each: every step, then the proofs
  layerpipe2 derive --layers 5 --groups 2,2,1             layers of one stage share its delay
  layerpipe2 derive --network resnet18 --group-size 2     with the branches of the residual blocks
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


_CONFIG = "take settings from there, a record or YAML or JSON; options win over it"

_ADVISE = """\
examples:
  layerpipe2 advise                                       the MLP on digits, every unit a stage
  layerpipe2 advise --network vgg --group-size 3 --lr 0.1 --momentum 0 --steps 50
  layerpipe2 advise --optimizer adamw --lr 1e-3 --strategies ema-span pair
  layerpipe2 advise --config run.json --json              the settings of a record, for programs

Trains by exact stashing until the pipeline is full and for --steps updates more, and measures what the latest weights
and each average would do instead: how far they are from the right weights, and how far their gradients point elsewhere.
Ends with one sentence: drop the history, keep one, or lower the learning rate. --strategy adds one to those measured.
"""


def add_commands(new: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add all commands; ``new`` makes a parser from a name, a purpose and the text below the options."""
    train = new("train", "train one network and write its record", _TRAIN)
    add_options(train, RunConfig)
    add = train.add_argument_group("output").add_argument
    add("--config", metavar="FILE", help=_CONFIG)
    add("--out", metavar="RECORD.json", help="write the record there; default: a summary only")
    add("--checkpoint-dir", metavar="DIR", help="save the complete state there after every epoch")
    add("--resume", action="store_true", help="go on from the state in --checkpoint-dir")
    add("--quiet", action="store_true", help="no progress display")
    where = "watch it in MLflow: a server's address, or a database file (mlflow.db if none is named)"
    add("--mlflow", metavar="WHERE", nargs="?", const="mlflow.db", help=where)
    delays = new("delays", "show stages, delays, and what happens tick by tick", _DELAYS)
    add_options(delays, RunConfig, only=PIPELINE)
    add_options(delays, GridOptions)
    balance = new("balance", "time the units, cut them into stages, find the fastest training", _BALANCE)
    measured = ("dataset", "batch_size", "network", "width", "strategy", "optimizer", "threads", "device")
    add_options(balance, RunConfig, only=measured)
    add_options(balance, BalanceOptions)
    tune.add_arguments(new("tune", tune.PURPOSE, tune.HELP))
    advise = _add_advise(new)
    launch.add_options(new("launch", "start the processes of a pipeline on this machine", _LAUNCH))
    info = new("info", "show data, networks, strategies, device and versions", _INFO)
    add_options(info, RunConfig, only=("dataset", "data_root", "device"))
    for parser in (train, advise, info):
        parser.add_argument("--download", action="store_true", help="let torchvision download data that isn't found")
    for parser in (advise, delays, info):
        _add_json(parser)
    info.add_argument("--schema", action="store_true", help="print the JSON schema of a run's settings, for editors")
    _add_theory(new)


def _add_advise(new: Callable[[str, str, str], argparse.ArgumentParser]) -> argparse.ArgumentParser:
    advise = new("advise", "measure, before training, whether it needs a weight history", _ADVISE)
    add_options(advise, RunConfig)
    add = advise.add_argument_group("measurement").add_argument
    add("--steps", type=within(int, 1, LARGEST), default=100, metavar="N", help="updates to measure over; default: 100")
    add("--strategies", nargs="+", metavar="NAME", help="measure these beside latest; default: all that aren't exact")
    add("--config", metavar="FILE", help=_CONFIG)
    return advise


def _add_theory(new: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    stability = new("stability", "show how large a step delayed gradients allow", _STABILITY)
    add_options(stability, RunConfig, only=[*PIPELINE, "momentum", "nesterov"])
    derive = new("derive", "derive a pipeline's delays by retiming, with proofs", _DERIVE)
    add_options(derive, DeriveOptions)
    add = derive.add_argument_group("output").add_argument
    add("--step", metavar="STEP", help="show this step only: 0, 1, 2, 3, 4, 4.2, ...")
    add("--export", metavar="FORMAT", help="format of the graph of --step (default: the last)")
    add("--out", metavar="FILE", help="write there; default: the terminal")
    schedule = new("schedule", "simulate and draw pipeline schedules", _SCHEDULE)
    schedule.add_argument("name", nargs="?", metavar="NAME", help="draw this one; default: compare all")
    add_options(schedule, ScheduleOptions)
    add_options(schedule, SpikepipeOptions)
    for parser in (stability, schedule):
        _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the same as JSON, for programs")
