"""What the values of options are: numbers within bounds, lists, names; and which go together."""

import argparse
from collections.abc import Callable
from contextlib import suppress

from layerpipe2.errors import UserError, plain, shown
from layerpipe2.strategies import find_strategy


def within(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """Make the ``type`` of an option: a number from ``least`` to ``most``, or one line that says so."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(plain(text))) <= most:
                return value
        what = {int: "an integer", float: "a number"}[kind]
        raise argparse.ArgumentTypeError(f"{shown(text)} is out of range; give {what} from {least} to {most}")

    return read


def integers(text: str) -> tuple[int, ...]:
    """Read a list, as in ``2,2,1``: the ``type`` of an option that takes one."""
    try:
        return tuple(int(plain(part)) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no list of integers; give one, as in 2,2,1") from None


def check_together(options: argparse.Namespace) -> None:
    """Refuse unknown strategies, and a link's latency without its bandwidth, before torch is imported.

    Raises:
        UserError: saying so.
    """
    for name in getattr(options, "strategies", None) or ():
        find_strategy(name)
    if getattr(options, "latency", None) is not None and options.gigabits is None:
        raise UserError("--latency is that of a link between machines; give its --gigabits, too")
