"""The command line ``layerpipe2``: train, look at delays and theory, balance stages, see what this machine offers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from layerpipe2.cli.commands import add_commands
from layerpipe2.cli.console import run_command
from layerpipe2.cli.early import check
from layerpipe2.errors import UserError, did_you_mean, install_command, shown

_EPILOG = "`layerpipe2 COMMAND --help` explains a command and shows examples. The whole reproduction: `make reproduce`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, or 2 on bad input)."""
    return run_command("layerpipe2", _dispatch, arguments)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line each, as all others are; of commands, and of modules that are scripts."""

    def __init__(self, *, formatter_class: Any = argparse.RawDescriptionHelpFormatter, **keywords: Any) -> None:
        super().__init__(formatter_class=formatter_class, allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments."""
        raise UserError(f"{' '.join(message.split())}; see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of the choices, as an unknown command, with the one that may have been meant."""
        if action.choices is not None and value not in action.choices:
            what = str(action.metavar or action.dest).lower()
            self.error(f"unknown {what} {shown(value)}; {did_you_mean(value, action.choices)}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is left over here, where the options that may have been meant are known."""
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            hint = did_you_mean(rest[0].partition("=")[0], self._option_string_actions)
            self.error(f"unknown argument {shown(rest[0])}" + (f"; {hint}" if hint.startswith("did") else ""))
        return options, rest


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="layerpipe2",
        description="Pipelined (delayed-gradient) training of neural networks.",
        epilog=_EPILOG,
        formatter_class=argparse.HelpFormatter,
    )
    version = import_module("layerpipe2").__version__
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    text = "print what bash, zsh or tcsh needs to complete commands and names; needs shtab"
    parser.add_argument("--print-completion", action=_PrintCompletion, metavar="SHELL", help=text)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_commands(partial(_command, commands))
    return parser


class _PrintCompletion(argparse.Action):
    """Prints a shell's script and ends, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """With the imports that only this needs."""
        print(import_module("layerpipe2.cli.completion").script(parser, values))
        parser.exit()


def _dispatch(arguments: Sequence[str] | None) -> None:
    options = make_parser().parse_args(arguments)
    check(options)
    if getattr(options, "mlflow", None) and os.environ.get("RANK", "0") == "0":
        from layerpipe2.lab.tracking.live import Writer

        with Writer(options.mlflow) as options.writer:  # imports MLflow while this process imports torch
            _run(options)
    else:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    try:
        command = import_module(f"layerpipe2.cli.{options.command}")  # only the chosen one pays for its imports
        command.run(options)
    except ModuleNotFoundError as error:
        if error.name not in ("networkx", "scipy"):
            raise
        raise UserError(f"'layerpipe2 {options.command}' needs {error.name}; run {install_command('theory')}") from None


def _command(
    commands: argparse._SubParsersAction[Parser], name: str, purpose: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose.capitalize() + ".",
        epilog=epilog,
    )
