"""What a shell needs to complete commands, options and names: a script that shtab makes from the parser."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from layerpipe2.errors import UserError, look_up
from layerpipe2.lab.data import DATASETS
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import choices
from layerpipe2.strategies import STRATEGIES

SHELLS = ("bash", "zsh", "tcsh")
_TABLES: dict[str, Mapping[str, Any]] = {"dataset": DATASETS, "network": NETWORKS, "strategy": STRATEGIES}
_PATHS = {"DIR": "DIRECTORY", "FILE": "FILE", "RECORD.json": "FILE"}
"""Placeholder of an option -> the kind of path that it takes."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of :data:`SHELLS`; changes ``parser``, which then knows the names that options take.

    Raises:
        UserError: on another shell, or without shtab.
    """
    look_up(dict.fromkeys(SHELLS), shell, "shell")
    try:
        shtab = import_module("shtab")
    except ModuleNotFoundError:
        raise UserError("completion of commands needs shtab; run: pip install shtab") from None
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        command.fill()
        for action in command._actions:
            if names := _names(action.dest):
                action.choices = names
            elif action.metavar in _PATHS:
                action.complete = getattr(shtab, _PATHS[str(action.metavar)])
    text: str = shtab.complete(parser, shell)
    return text


def _names(setting: str) -> list[str]:
    fields = RunConfig.model_json_schema()["properties"]
    return list(_TABLES.get(setting, ())) or choices(fields.get(setting, {}))
