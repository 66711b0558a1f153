"""Running tests in a copy of the tree, each time in a fork of this process, which has imported all but the tree."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

LIBRARY = Path("src/layerpipe2")
LIMIT_S = 90
"""Of a test: a mutant with which one takes longer is killed."""
IMPORT = ""
"""Stands for the import of all tests among the names of tests."""


class Recorded:
    """A pytest plugin: writes which lines of the library each test runs, also in processes that it forks, and how long.

    ``FILE:LINE`` for each, then ``=SECONDS NODE``.
    """

    def __init__(self, copy: Path) -> None:
        self.prefix = f"{copy / LIBRARY}{os.sep}"
        self.file = os.open(copy / "lines", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self.seen: set[tuple[str, int]] = set()
        self.failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Any:
        with self.recorded(IMPORT):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        with self.recorded(item.nodeid):
            return (yield)

    @contextmanager
    def recorded(self, node: str) -> Iterator[None]:
        signal.alarm(10 * LIMIT_S)
        self.seen, self.failed, began = set(), False, time.monotonic()
        threading.settrace(self.note)
        sys.settrace(self.note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            if not self.failed:
                self.write(f"={time.monotonic() - began:.3f} {node}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def note(self, frame: Any, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self.prefix):
            return None
        if (name, frame.f_lineno) not in self.seen:
            self.seen.add((name, frame.f_lineno))
            self.write(f"{name[len(self.prefix) :]}:{frame.f_lineno}")
        return self.note

    def write(self, line: str) -> None:
        os.write(self.file, f"{line}\n".encode())


class Chosen:
    """A pytest plugin: runs the tests ``nodes`` alone, in their order; the process dies when one takes too long."""

    def __init__(self, nodes: list[str]) -> None:
        self.order = {node: i for i, node in enumerate(nodes)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((one for one in items if one.nodeid in self.order), key=lambda one: self.order[one.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Any:
        signal.alarm(LIMIT_S)
        return (yield)


def record(copy: Path, tests: list[str]) -> dict[str, tuple[float, set[str]]]:
    """Test -> its seconds and the lines of the library that it runs; those that fail are left out, and named."""
    _, status = os.waitpid(_fork(copy, lambda: [tests, Recorded(copy)]), 0)
    if status:
        told = [line for line in (copy / "output").read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
        print("left out, because they fail without a mutant:", *told, sep="\n", file=sys.stderr)
    found: dict[str, tuple[float, set[str]]] = {IMPORT: (0.0, set())}
    lines: set[str] = set()
    for line in (copy / "lines").read_text().splitlines():
        if line.startswith("="):
            seconds, node = line[1:].split(" ", 1)
            found[node], lines = (float(seconds), lines), set()
        else:
            lines.add(line)
    return found


def survivors(jobs: list[tuple[Any, list[str]]], original: Path, copies: list[Path]) -> list[Any]:
    """The mutants whose tests pass, or that have none; as many at a time as there are ``copies`` of the tree."""
    todo, passed = [job for job in reversed(jobs) if job[1]], [mutant for mutant, nodes in jobs if not nodes]
    free, running, number = list(copies), {}, len(todo)
    while todo or running:
        while todo and free:
            (mutant, nodes), copy = todo.pop(), free.pop()
            (copy / LIBRARY / mutant.file).write_text(mutant.source(), encoding="utf-8")
            files = sorted({node.partition("::")[0] for node in nodes})
            process = _fork(copy, lambda files=files, nodes=nodes: [["-x", *files], Chosen(nodes)])
            running[process] = mutant, copy, f"{len(nodes)} tests", time.monotonic()
        process, status = os.wait()
        mutant, copy, tests, began = running.pop(process)
        free.append(copy)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it has started
        shutil.copy(original / LIBRARY / mutant.file, copy / LIBRARY / mutant.file)
        passed += [mutant] if status == 0 else []
        told = f"{'SURVIVES' if status == 0 else 'killed'} ({time.monotonic() - began:.0f} s, of {tests}): {mutant}"
        print(f"{number - len(todo) - len(running)} of {number} {told}", file=sys.stderr, flush=True)
    return passed


def _fork(copy: Path, work: Callable[[], list[Any]]) -> int:
    """A process that ends with 0 if the tests pass: those of ``work``, with its plugin."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.chdir(copy)
        with open("output", "wb") as output, open(os.devnull, "rb") as nothing:
            for file, stream in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(file.fileno(), stream)
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        sys.path[:0] = path = [str(copy / "src"), str(copy)]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)
        signal.alarm(LIMIT_S)
        options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={copy / 'tmp'}"]
        tests, plugin = work()
        code = pytest.main([*options, *tests], plugins=[plugin])
    finally:
        os._exit(code)
