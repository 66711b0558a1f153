"""What the values of options are: numbers within bounds, lists."""

import argparse
from collections.abc import Callable
from contextlib import suppress

from layerpipe2.errors import plain, shown


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
