"""The one exception that a user's mistake raises, and the checks of names, counts and files that raise it."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")
LARGEST = 2**16
"""Most that a width, a batch, a number of units or the like may be: far beyond what is trained, and products fit."""
MOST_STEPS = 1024
"""Most time steps of a sample in a spiking network."""
_SHOWN = 120
"""Characters that a message shows of a value."""
_NAME = 100
"""Characters of a name: file systems allow 255 bytes, of which suffixes and other alphabets take some."""


class UserError(ValueError):
    """Bad input: its message is one line that says what is wrong, where, and the remedy.

    The command line and the scripts print the message without a traceback and exit with code 2.
    """


def shown(value: object) -> str:
    """A value in a message: as Python writes it, in one line of bounded length.

    >>> shown("grup size"), shown(list(range(100)))[-20:]
    ("'grup size'", '7, 28, 29, 30, 31...')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a list in a list in a list ...
        return f"a value of type {type(value).__name__} that is too long to be shown"
    text = " ".join(text.splitlines())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest of those that are known, or all of them.

    >>> did_you_mean("grup_size", ["group_size", "width"])
    "did you mean 'group_size'?"
    >>> did_you_mean("zzz", ["group_size", "width"])
    'known: group_size, width'
    """
    known = list(known)
    near = difflib.get_close_matches(name[:_NAME] if isinstance(name, str) else shown(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def look_up(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of a table by its name.

    Raises:
        UserError: on an unknown name, with the one that may have been meant.
    """
    if not isinstance(name, str) or name not in table:
        raise UserError(f"unknown {what} {shown(name)}; {did_you_mean(name, table)}")
    return table[name]


def install_command(extra: str) -> str:
    """The remedy for a missing package: the command that installs an extra of this one, which is on no index.

    >>> install_command("graphs")
    "`pip install '.[graphs]'` in layerpipe2's folder"
    """
    return f"`pip install '.[{extra}]'` in layerpipe2's folder"


def integer(value: object, name: str, least: int, most: int | None = None) -> int:
    """``value`` itself, if it is an integer from ``least`` to ``most`` (True is none).

    >>> integer(3, "number of stages", 1)
    3

    Raises:
        UserError: with the name, the value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} is {shown(value)}; give an integer {allowed}")
    return value


def plain(text: str) -> str:
    """``text`` itself, without what ``int`` and ``float`` let pass: spaces around, ``_`` within, other alphabets.

    Raises:
        ValueError: if it has some.
    """
    if not text.isascii() or "_" in text or text != text.strip():
        raise ValueError(f"{shown(text)} is no plain number")
    return text


def plain_name(name: str, what: str) -> str:
    """``name`` itself, if a file or folder can have it and it leads nowhere else.

    Raises:
        UserError: with the name and what it names.
    """
    if name in ("", ".", "..") or len(name) > _NAME or "/" in name or not name.isprintable():
        raise UserError(f"{what} is {shown(name)}; give a name: no /, . or .., at most {_NAME} printable characters")
    return name


def read_file(path: Path, most: int, refused: Callable[[str], UserError] | None = None) -> bytes:
    """The content of a regular file of at most ``most`` bytes: neither a pipe nor a device, which may never end.

    Raises:
        UserError: if it is none, or larger; ``refused`` makes it from what is wrong.
        OSError: if it can't be read.
    """
    refused = refused or (lambda what: UserError(f"{path} is {what}; give the right file"))
    if not path.is_file():
        path.stat()  # raises what is wrong with a file that isn't there
        raise refused("no regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise refused(f"larger than the {most:,d} bytes that are expected at most")
    return content
