"""How commands end (quietly, with one line, or with a traceback if the mistake is this package's) and print tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence


def run_command(program: str, command: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None) -> int:
    """Run ``command`` and return its exit code.

    0 success; 2 bad input (one line on stderr, no traceback); 130 Ctrl-C; other errors keep their traceback.
    """
    from layerpipe2.errors import UserError

    try:
        command(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, e.g. `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
