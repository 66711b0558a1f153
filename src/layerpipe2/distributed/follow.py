"""Run as a script by the launcher: become ``python ARGUMENTS``, as a process that dies with its launcher.

The launcher may be killed in a way that lets it do nothing; the kernel then kills the rank.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec


def main(launcher: int, arguments: list[str]) -> None:
    """Replace this process; ends it if the launcher has died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            sys.exit("layerpipe2: the launcher has ended")
    os.execv(sys.executable, [sys.executable, "-u", *arguments])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
