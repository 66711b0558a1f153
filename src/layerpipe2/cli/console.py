"""How commands end (quietly, with one line, or with a traceback if the mistake is this package's) and print text."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from layerpipe2.errors import UserError, shown

_LINE = 1200
"""Characters of a message."""
_FEWEST = 6
"""Columns that a chart has on the narrowest terminal."""


def run_command(program: str, command: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None) -> int:
    """Run ``command`` and return its exit code.

    0 success; 2 bad input, a file that can't be read or written, or too little memory (one line on stderr, no
    traceback); 130 Ctrl-C; other errors keep their traceback.
    """
    try:
        for argument in sys.argv[1:] if arguments is None else arguments:
            if argument != argument.encode(errors="replace").decode():
                raise UserError(f"argument {shown(argument)} isn't UTF-8; give another name")
        command(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _refused(program, str(error))
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, e.g. `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        return _refused(program, f"{error.strerror or error}{where}; give another name or folder, or make room")
    except MemoryError:
        return _refused(program, "memory ran out; give smaller sizes")
    return 0


def _refused(program: str, message: str) -> int:
    """Print the message, which may hold names from anywhere, in one line of printable characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{program}: error: {message}")
    print(line if len(line) < _LINE else f"{line[: _LINE // 2]} ... {line[-_LINE // 2 :]}", file=sys.stderr)
    return 2


def print_json(content: dict[str, Any]) -> None:
    """Print what a command with ``--json`` prints: one JSON object, for programs."""
    print(json.dumps(content, indent=2, allow_nan=False))


def span(first: int, end: int) -> str:
    """Name the numbers from ``first`` up to ``end``, which is not among them, as in ``2-4`` or ``3``."""
    return f"{first}-{end - 1}" if end - first > 1 else str(first)


def terminal_width() -> int:
    """Return the characters per line of the terminal, or ``$COLUMNS`` if that is set; 80 where there is neither."""
    return shutil.get_terminal_size().columns


def fitted(draw: Callable[[int], str], most: int, width: int) -> str:
    """Return the chart with the most columns, up to ``most``, whose lines fit ``width``; ``draw`` makes it."""
    charts = map(draw, range(min(_FEWEST, most), most + 1))
    chart = next(charts)
    for wider in charts:
        if max(map(len, wider.splitlines())) > width:
            break
        chart = wider
    return chart


def wrapped(text: str, width: int) -> str:
    """Break lines between words at ``width``; lines of tables (wide gaps between words) stay whole."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        broken = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [line] if "  " in line.strip() else broken or [""]
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    """Say a duration with two digits that matter, as in ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours / 24:.1f} days"
