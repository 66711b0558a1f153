"""The arguments of the scripts that train, which are looked at before what takes seconds is imported."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.names import experiments, path_of
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.lab.runs.yaml_file import read_yaml
from layerpipe2.lab.tuning import MOST_JOBS


def check(parser: argparse.ArgumentParser) -> None:
    """End this process with one line and code 2 if it has wrong options, or names no experiment that can be read."""

    def read(arguments: Sequence[str] | None) -> None:
        read_yaml(path_of(parser.parse_args(arguments).experiment))

    if code := run_command(parser.prog.rpartition(" ")[2], read, None):
        sys.exit(code)


def _parser(module: str, description: str | None) -> Parser:
    """The arguments of all of them."""
    parser = Parser(prog=f"python -m experiments.{module}", description=description)
    add, names = parser.add_argument, ", ".join(experiments())
    add("experiment", metavar="NAME", help=f"a file of experiments/ without .yaml ({names}), or the path of one")
    add("--out", type=Path, help="folder of the records; default: the experiment's")
    add("--jobs", type=within(int, 1, MOST_JOBS), help="processes side by side; default: the experiment's")
    return parser


def run_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of :mod:`experiments.run`."""
    parser = _parser("run", description)
    add = parser.add_argument
    add("--network", help="only the runs of this network")
    add("--group", help="only the runs of this group size, or 'sequential': those of the baseline")
    add("--yes", action="store_true", help="start without asking")
    add("--quiet", action="store_true", help="start at once, say little")
    text = "delete the chosen runs' records that other settings or other code have made, and train those runs again"
    add("--this-code", action="store_true", help=text)
    add("--storage", metavar="URL", help="PostgreSQL database for machines that share no folder; default: the folder")
    add("--minutes", type=within(float, 0, 10**6), help="begin no run after so many minutes")
    return parser


def tune_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of :mod:`experiments.tune`."""
    parser = _parser("tune", description)
    parser.add_argument("--quiet", action="store_true", help="say little")
    return parser
