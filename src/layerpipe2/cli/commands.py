"""Options and help of the commands that train, plan a pipeline or look at this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from layerpipe2.cli import launch
from layerpipe2.cli.options import PIPELINE, add_options
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.validation import Checked, setting

AddCommand = Callable[[str, str, str], argparse.ArgumentParser]
"""(name, purpose, text below the options) -> parser."""


class GridOptions(Checked):
    """What ``delays`` draws."""

    ticks: int | None = setting(None, "", "columns of the grid; default: what fits, at most 2 x stages + 1", ge=1)


class BalanceOptions(Checked):
    """What ``balance`` measures."""

    stages: int = setting(2, "", "stages, one per process", ge=1)
    repeats: int = setting(9, "", "timed steps", ge=1)


_TRAIN_EXAMPLES = """\
examples:
  layerpipe2 train                                     an MLP on digits, every unit a stage, exact stashing
  layerpipe2 train --strategy ema-window --group-size 2 --out window.json
  layerpipe2 train --strategy sequential --out sequential.json        the same network without a pipeline
  layerpipe2 train --network resnet18 --dataset cifar100 --batch-size 128 --max-steps 300 --augment
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints           stop it with Ctrl-C, then go on bit for bit:
  layerpipe2 train --epochs 50 --checkpoint-dir checkpoints --resume

Accuracies are fractions in [0, 1]. The same settings give the same record, except for its times.
"""

_DELAYS_EXAMPLES = """\
examples:
  layerpipe2 delays                                    every unit of the MLP is a stage: delay 2 x stages after it
  layerpipe2 delays --network vgg --group-size 3       three units share a stage and its delay
  layerpipe2 delays --convention pipedream             1F1B: half the delay
  layerpipe2 delays --group-size 3 --convention custom --delays 4,4,0

In the grid, F3 is the forward pass of mini-batch 3 and B3 its backward pass. A stage's delay is the number of its
updates between the two. `copies` are the parameter copies that hardware holds beside the latest weights: what exact
stashing stores and a moving average reconstructs.
"""

_BALANCE_EXAMPLES = """\
examples:
  layerpipe2 balance                                   the MLP on digits in two stages, with SGD's update
  layerpipe2 balance --optimizer adamw --threads 2 --repeats 25
  layerpipe2 balance --network resnet18 --stages 2     time every unit, cut where the slower stage is fastest
  layerpipe2 balance --network vgg --dataset cifar10 --batch-size 128 --stages 4 --strategy ema-span
  layerpipe2 balance --network gpt --dataset python-docs

Times are those of this machine, now: let nothing else run. The prediction leaves out transfers between processes.
In Python: layerpipe2.planning.balance.
"""

_LAUNCH_EXAMPLES = """\
examples:
  layerpipe2 launch --processes 2 -- train.py --epochs 5                  two processes here
  layerpipe2 launch --processes 2 -- -m layerpipe2 train --epochs 5
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 0 --master 10.0.0.1:29500 -- train.py    on 10.0.0.1, and
  layerpipe2 launch --processes 4 --nodes 2 --node-rank 1 --master 10.0.0.1:29500 -- train.py    on the other machine

The processes find RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them. When one fails, all
end, with one line that names it. docs/cluster.md shows Slurm and the network's settings.
"""

_INFO_EXAMPLES = """\
examples:
  layerpipe2 info                                       the digits, the lists of names, this machine
  layerpipe2 info --dataset cifar10 --data-root data    is it there and complete?
  layerpipe2 info --schema > run.schema.json            what an editor needs to complete and check settings
"""


def add_commands(add: AddCommand) -> None:
    """Add the commands."""
    train = add("train", "train one network and write its record", _TRAIN_EXAMPLES)
    add_options(train, RunConfig)
    output = train.add_argument_group("output")
    output.add_argument("--out", metavar="RECORD.json", help="write the record there; default: a summary only")
    output.add_argument("--checkpoint-dir", metavar="DIR", help="save the complete state there after every epoch")
    output.add_argument("--resume", action="store_true", help="go on from the state in --checkpoint-dir")
    output.add_argument("--quiet", action="store_true", help="no progress display")
    _add_download(train)
    delays = add("delays", "show stages, delays, and what happens tick by tick", _DELAYS_EXAMPLES)
    add_options(delays, RunConfig, only=PIPELINE)
    add_options(delays, GridOptions)
    balance = add("balance", "time the units and cut them into equally slow stages", _BALANCE_EXAMPLES)
    measured = ("dataset", "batch_size", "network", "width", "strategy", "optimizer", "threads", "device")
    add_options(balance, RunConfig, only=measured)
    add_options(balance, BalanceOptions)
    launch.add_options(add("launch", "start the processes of a pipeline on this machine", _LAUNCH_EXAMPLES))
    info = add("info", "show data, networks, strategies, device and versions", _INFO_EXAMPLES)
    add_options(info, RunConfig, only=("dataset", "data_root", "device"))
    _add_download(info)
    info.add_argument("--schema", action="store_true", help="print the JSON schema of a run's settings, for editors")


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--download", action="store_true", help="let torchvision download data that isn't found")
