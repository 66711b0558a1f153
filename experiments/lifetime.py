"""Processes that don't outlive the one that started them."""

import ctypes
import os
import signal
from types import FrameType

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux
_DVC = "DVC_STAGE"  # in the environment of what DVC starts


def end_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent has ended, even if that was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)


def end_with_dvc() -> None:
    """If DVC has started this process: end with it, and say so. What a shell has started goes on without the shell."""
    if _DVC in os.environ:
        signal.signal(signal.SIGTERM, _say_and_end)
        end_with_parent(signal.SIGTERM)


def _say_and_end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"experiments.run: ended, since DVC has ended; finished runs are kept, so start it again\n")
    finally:
        os._exit(2)
