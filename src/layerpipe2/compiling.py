"""Python loops as machine code, by numba, which an extra brings."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba

from layerpipe2.lightning import pl


def compiled(function: Callable[..., Any], **how: Any) -> Any:
    """``function`` as machine code that runs without Python's lock, kept on disk where numba finds a folder for it.

    ``how`` goes to ``numba.njit``.
    """
    try:
        return numba.njit(nogil=True, cache=True, **how)(function)
    except RuntimeError:  # no such folder
        _say_once()
        return numba.njit(nogil=True, **how)(function)


@cache
def _say_once() -> None:
    pl.utilities.rank_zero_info(
        "layerpipe2: no folder for compiled code can be written to, so that every process compiles it anew (seconds); "
        "NUMBA_CACHE_DIR names another one"
    )
