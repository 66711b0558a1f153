"""The options that commands have in the study: settings of a run, and how they are read."""

import argparse
from collections.abc import Callable, Collection

from layerpipe2.cli.commands import add_json
from layerpipe2.cli.options import within
from layerpipe2.delays import MOST_UPDATES
from layerpipe2.lab.cli import tune
from layerpipe2.lab.cli.early import check, check_network
from layerpipe2.lab.cli.options import add_options
from layerpipe2.lab.runs.config import RunConfig

PIPELINE = ("dataset", "network", "width", "group_size", "convention", "delays")
"""Settings of a run that decide its pipeline's structure."""
_MEASURED = ("dataset", "batch_size", "network", "width", "strategy", "optimizer", "device")
"""Those that decide how long it takes."""

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
"""

_ADVISE = """\
examples:
  layerpipe2 advise                                       the MLP on digits, every unit a stage
  layerpipe2 advise --network vgg --group-size 3 --lr 0.1 --momentum 0 --steps 50
  layerpipe2 advise --optimizer adamw --lr 1e-3 --strategies ema-span pair
  layerpipe2 advise --config run.json --json              the settings of a record, for programs
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
  layerpipe2 derive --network resnet18 --group-size 2     with the branches of the residual blocks
"""


def _train(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _TRAIN)
    _add_settings(parser)
    add = parser.add_argument_group("output").add_argument
    _add_config(parser)
    add("--out", metavar="RECORD.json", help="write the record there; default: a summary only")
    add("--checkpoint-dir", metavar="DIR", help="save the complete state there after every epoch")
    add("--resume", action="store_true", help="go on from the state in --checkpoint-dir")
    add("--quiet", action="store_true", help="no progress display")
    where = "watch it in MLflow: a server's address, or a database file (mlflow.db if none is named)"
    add("--mlflow", metavar="WHERE", nargs="?", const="mlflow.db", help=where)
    _add_download(parser)


def _delays(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _DELAYS)
    _add_settings(parser, PIPELINE)
    text = "columns of the grid; default: what fits, at most 2 x stages + 1"
    parser.add_argument("--ticks", type=within(int, 1, MOST_UPDATES), metavar="N", help=text)
    add_json(parser)


def _balance(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _BALANCE)
    _add_settings(parser, _MEASURED)


def _tune(parser: argparse.ArgumentParser) -> None:
    _describe(parser, tune.HELP)
    _add_settings(parser)
    tune.add_arguments(parser)


def _advise(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _ADVISE)
    _add_settings(parser)
    _add_config(parser)
    _add_download(parser)


def _info(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _INFO)
    _add_settings(parser, ("dataset", "data_root", "device"))
    _add_download(parser)
    add_json(parser)
    text = "print the JSON schema of a run's settings, for editors"
    parser.add_argument("--schema", action="store_true", help=text)


def _stability(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _STABILITY)
    _add_settings(parser, (*PIPELINE, "momentum", "nesterov"))
    add_json(parser)


def _derive(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _DERIVE)
    text = "a network; `layerpipe2 info` lists them; default: a chain"
    parser.add_argument("--network", metavar="NAME", help=text)
    parser.set_defaults(check=check_network)


def _describe(parser: argparse.ArgumentParser, text: str) -> None:
    """Put examples of the study before those that the command has already."""
    parser.epilog = text + (parser.epilog or "").removeprefix("examples:\n")


def _add_settings(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    add_options(parser, RunConfig, only)
    parser.set_defaults(check=check)


def _add_config(parser: argparse.ArgumentParser) -> None:
    text = "take settings from there, a record or YAML or JSON; options win over it"
    parser.add_argument("--config", metavar="FILE", help=text)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--download", action="store_true", help="let torchvision download data that isn't found")


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "train": _train,
    "delays": _delays,
    "balance": _balance,
    "tune": _tune,
    "advise": _advise,
    "info": _info,
    "stability": _stability,
    "derive": _derive,
}
"""Command -> what adds its options."""
