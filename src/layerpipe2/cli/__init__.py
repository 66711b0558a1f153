"""The command line ``layerpipe2``: advice, costs and theory of a pipeline, its processes; the commands of the study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from layerpipe2.cli.console import run_command
from layerpipe2.cli.help import COMMANDS
from layerpipe2.errors import UserError, did_you_mean, install_command, shown

EXTRAS = {
    "filelock": "tuning",
    "networkx": "theory",
    "optuna": "tuning",
    "pydantic": "lab",
    "scipy": "theory",
    "sklearn": "lab",
    "torchvision": "lab",
    "yaml": "lab",
}
"""What a command may lack -> the extra that brings it."""
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


class CommandParser(Parser):
    """The parser of a command, which gets its options when the command is chosen."""

    def __init__(self, *, command: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._command, self._homes = command, COMMANDS[command].homes

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Ask for the options first."""
        self.fill()
        return super().parse_known_args(args, namespace)

    def fill(self) -> None:
        """Add the command's options, once: those for a training of one's own, then, if they are there, the study's.

        Raises:
            UserError: if the command is one of the study, of which something is not installed.
        """
        homes, self._homes, refused = self._homes, (), None
        for place, home in enumerate(homes, 1):
            try:
                import_module(f"{home}.commands").OPTIONS[self._command](self)
            except ModuleNotFoundError as error:
                refused = _missing(self._command, error)
            else:
                self.set_defaults(run=f"{home}.{self._command}")
                self.epilog = COMMANDS[self._command].epilog(homes[:place])
        if refused and self.get_default("run") is None:
            raise refused


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    text = "Pipelined (delayed-gradient) training of neural networks."
    parser = Parser(prog="layerpipe2", description=text, epilog=_EPILOG, formatter_class=argparse.HelpFormatter)
    version = import_module("layerpipe2").__version__
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    text = "print what bash, zsh or tcsh needs to complete commands and names; needs shtab"
    parser.add_argument("--print-completion", action=_PrintCompletion, metavar="SHELL", help=text)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, (purpose, *_) in COMMANDS.items():
        commands.add_parser(name, command=name, help=purpose, description=purpose.capitalize() + ".")
    return parser


class _PrintCompletion(argparse.Action):
    """Prints a shell's script and ends, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Run the command, with the imports that only it needs."""
        try:
            print(import_module("layerpipe2.lab.cli.completion").script(parser, values))
        except ModuleNotFoundError as error:
            raise _missing("--print-completion", error) from None
        parser.exit()


def _dispatch(arguments: Sequence[str] | None) -> None:
    options = make_parser().parse_args(arguments)
    try:
        if hasattr(options, "check"):  # before the command's own imports, which take seconds
            options.check(options)
        import_module(options.run).run(options)
    except ModuleNotFoundError as error:
        raise _missing(options.command, error) from None


def _missing(command: str, error: ModuleNotFoundError) -> UserError:
    """Say what to install; raise an error of another kind itself."""
    if error.name not in EXTRAS:
        raise error
    return UserError(f"'layerpipe2 {command}' needs {error.name}; run {install_command(EXTRAS[error.name])}")
