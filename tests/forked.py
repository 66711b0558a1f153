"""``python -m module ...`` as a fork of this process, which has imported already what takes seconds to import."""

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from typing import Any


class Forked(subprocess.Popen[str]):
    """In the place of ``subprocess.Popen`` where a test is about what a process does, not about what it imports.

    Commands that aren't ``python -m module`` are started as always.
    """

    def _execute_child(self, args: Any, *others: Any) -> None:
        """See ``subprocess.Popen``, which calls this with its arguments in a fixed order."""
        if list(args[:2]) != [sys.executable, "-m"]:
            super()._execute_child(args, *others)  # type: ignore[misc]
            return
        cwd, env, pipes, session = others[4], others[5], others[9:15], others[20]
        theirs, ours = {pipes[0], pipes[3], pipes[5]} - {-1}, {pipes[1], pipes[2], pipes[4]} - {-1}
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._child_created = True
        if self.pid:
            for end in theirs:
                os.close(end)
            return
        for end in ours:
            os.close(end)
        for end, standard in ((pipes[0], 0), (pipes[3], 1), (pipes[5], 2)):
            if end != -1:
                os.dup2(end, standard)
        os._exit(_run(list(args[2:]), env, cwd, session))


def _run(words: list[str], env: Any, cwd: Any, session: bool) -> int:
    """The exit code of a module that is run with its arguments."""
    code: object = 0
    try:
        _as_new(env, cwd, session)
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(Exception):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _as_new(env: Any, cwd: Any, session: bool) -> None:
    """What a new process finds: its own streams, environment, folder and warnings."""
    atexit._clear()  # what the parent has registered is the parent's
    os.closerange(3, 4096)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    if session:
        os.setsid()
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    tempfile.tempdir = None  # read anew from the environment
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
