"""What is looked at before a command is imported, which takes seconds: whether values and names are right."""

import argparse
from pathlib import Path
from typing import Any

from layerpipe2.errors import UserError, look_up
from layerpipe2.lab.cli.options import option, read_options
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import checked
from layerpipe2.strategies import find_strategy


def check(options: argparse.Namespace) -> None:
    """Refuse wrong settings, and unknown data sets, networks and strategies, without importing torch.

    Raises:
        UserError: as :func:`read_run`, on an unknown name, or if a training of one's own is given, too.
    """
    from layerpipe2.lab.data import describe  # imports NumPy

    if getattr(options, "module", None):
        _check_own(options)
        return
    config = read_run(options)
    describe(config.dataset)
    look_up(NETWORKS, config.network, "network")
    find_strategy(config.strategy)


def check_network(options: argparse.Namespace) -> None:
    """Refuse an unknown network, or one beside a chain of layers, without importing torch.

    Raises:
        UserError: saying so.
    """
    if options.network is not None:
        if options.layers is not None:
            raise UserError("--layers and --network are both given; give one of them")
        look_up(NETWORKS, options.network, "network")


def _check_own(options: argparse.Namespace) -> None:
    names = {*RunConfig.model_fields, "config"} - {"threads"}
    given = [name for name in sorted(names) if getattr(options, name, None) is not None]
    if given:
        raise UserError(f"{option(given[0])} is for the study's networks, and --module has your own; give one of them")


def read_run(options: argparse.Namespace) -> RunConfig:
    """The settings of a run: those of the options, then those of the file that ``--config`` names.

    Raises:
        UserError: on a mistake in them.
    """
    file = getattr(options, "config", None)
    return read_options(RunConfig, options, settings_from(Path(file)) if file else None)


def settings_from(path: Path) -> dict[str, Any]:
    """The settings in a file: those of a run, if it is its record, or a mapping of some of them in YAML or JSON.

    Raises:
        UserError: if it is neither, or a setting isn't what it may be, with file, setting and what is allowed.
    """
    from layerpipe2.lab.runs.records import read_json, read_record
    from layerpipe2.lab.runs.yaml_file import read_yaml

    found = read_json(path, "give a record or settings") if path.suffix == ".json" else read_yaml(path)
    if "schema" in found:
        found = read_record(path)["config"]
    checked(RunConfig, found, where=str(path))
    return found
