"""What is looked at before a command is imported, which takes seconds: whether values and names are right."""

import argparse
from pathlib import Path
from typing import Any

from layerpipe2.cli.options import read_options
from layerpipe2.errors import look_up
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import checked


def check(options: argparse.Namespace) -> None:
    """Refuse wrong values of a command's options, and unknown data sets and networks, without importing torch.

    Raises:
        UserError: as :func:`layerpipe2.cli.options.read_options`, and on an unknown name.
    """
    for model in options.models:
        if model is RunConfig:
            _check_names(read_run(options))
        else:
            read_options(model, options)


def _check_names(config: RunConfig) -> None:
    """Those of strategies are made with torch: a command that needs one looks it up itself."""
    from layerpipe2.lab.data import describe  # imports NumPy

    describe(config.dataset)
    look_up(NETWORKS, config.network, "network")


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
