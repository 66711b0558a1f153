"""Processes that don't outlive the one that started them."""

import ctypes
import os
import signal

STARTER = "LAYERPIPE2_STARTER"
"""In the environment of a process: the one that has started it, and with which it ends."""
_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def end_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent has ended, even if that was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)


def end_with_starter() -> None:
    """End with the process in :data:`STARTER`, if that is set, and leave Ctrl-C to it."""
    if (starter := os.environ.get(STARTER)) is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        if os.getppid() != int(starter):  # it ended before the kernel was asked
            os._exit(1)
