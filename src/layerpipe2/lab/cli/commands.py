"""The options that commands have in the study: settings of a run, and how they are read."""

import argparse
from collections.abc import Callable, Collection
from functools import partial

from layerpipe2.cli.commands import add_json
from layerpipe2.cli.options import within
from layerpipe2.delays import MOST_UPDATES
from layerpipe2.lab.cli import tune
from layerpipe2.lab.cli.options import add_options, check, check_network
from layerpipe2.lab.runs.config import RunConfig

PIPELINE = ("dataset", "network", "width", "group_size", "convention", "delays")
"""Settings of a run that decide its pipeline's structure."""
_MEASURED = ("dataset", "batch_size", "network", "width", "strategy", "optimizer", "device")
"""Those that decide how long it takes."""


def _train(parser: argparse.ArgumentParser) -> None:
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
    _add_settings(parser, PIPELINE)
    text = "columns of the grid; default: what fits, at most 2 x stages + 1"
    parser.add_argument("--ticks", type=within(int, 1, MOST_UPDATES), metavar="N", help=text)
    add_json(parser)


def _tune(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    tune.add_arguments(parser)


def _advise(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    _add_config(parser)
    _add_download(parser)


def _info(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser, ("dataset", "data_root", "device"))
    _add_download(parser)
    add_json(parser)
    text = "print the JSON schema of a run's settings, for editors"
    parser.add_argument("--schema", action="store_true", help=text)


def _stability(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser, (*PIPELINE, "momentum", "nesterov"))
    add_json(parser)


def _derive(parser: argparse.ArgumentParser) -> None:
    text = "a network; `layerpipe2 info` lists them; default: a chain"
    parser.add_argument("--network", metavar="NAME", help=text)
    parser.set_defaults(check=check_network)


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
    "balance": partial(_add_settings, only=_MEASURED),
    "tune": _tune,
    "advise": _advise,
    "info": _info,
    "stability": _stability,
    "derive": _derive,
}
"""Command -> what adds its options."""
