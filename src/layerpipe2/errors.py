"""The one exception that a user's mistake raises, and the checks of names and counts that raise it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")


class UserError(ValueError):
    """Bad input: its message is one line that says what is wrong, where, and the remedy.

    The command line and the scripts print the message without a traceback and exit with code 2.
    """


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest of those that are known, or all of them.

    >>> did_you_mean("grup_size", ["group_size", "width"])
    "did you mean 'group_size'?"
    >>> did_you_mean("zzz", ["group_size", "width"])
    'known: group_size, width'
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def look_up(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of a table by its name.

    Raises:
        UserError: on an unknown name, with the one that may have been meant.
    """
    if name not in table:
        raise UserError(f"unknown {what} '{name}'; {did_you_mean(name, table)}")
    return table[name]


def integer(value: object, name: str, least: int, most: int | None = None) -> int:
    """``value`` itself, if it is an integer from ``least`` to ``most`` (True is none).

    >>> integer(3, "number of stages", 1)
    3

    Raises:
        UserError: with the name, the value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} is {value!r}; give an integer {allowed}")
    return value
