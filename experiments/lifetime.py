"""Processes that don't outlive the one that started them."""

import os
import signal
from types import FrameType

from layerpipe2.lab.runs.lifetime import end_with_parent

_DVC = "DVC_STAGE"  # in the environment of what DVC starts


def end_with_dvc() -> None:
    """If DVC has started this process: end with it, and say so. What a shell has started goes on without the shell."""
    if _DVC in os.environ:
        signal.signal(signal.SIGTERM, _say_and_end)
        end_with_parent(signal.SIGTERM)


def _say_and_end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"experiments: ended, since DVC has ended; finished runs are kept, so start it again\n")
    finally:
        os._exit(2)
