"""``make mutants``: which one-token changes of the training engine does no test notice?

Draws mutants by a seed, puts one after the other into a copy of the tree, and runs the tests that belong to the file
until one fails. A process that has imported torch, Lightning and pytest, but nothing of layerpipe2, forks for each.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
LIBRARY = Path("src/layerpipe2")
CORE = ("delays.py", "stages.py", "engine/*.py", "history/*.py", "distributed/*.py", "distributed/health/*.py")
FOR_GPUS = ("engine/cuda_graph.py", "distributed/devices.py")
IMPORTED = ("pytorch_lightning", "sklearn.datasets", "torch.distributed.run", "torchvision")
LIMIT_S = 90
"""Of a test: a mutant with which one takes longer is killed."""

_STEP = "stage_refusals limits saved_weights settings divergence probe construction module freezing trainer_callbacks"
_ENGINE = [f"engine/test_{name}" for name in f"{_STEP} module_checkpoints allocator".split()]
_QUICK = "diagnosis agreement launch_settings timeline refusals memory frozen_stages hosts training boundaries"
TESTS = {
    "delays.py": ["test_delays_and_stages", "cli/test_theory_commands"],
    "stages.py": ["test_delays_and_stages", *_ENGINE],
    "history/*": ["history", "runs/test_validation", "theory/test_reconstruction", *_ENGINE, "test_reference"],
    "engine/*": [*_ENGINE, "history", "test_reference", "distributed/test_frozen_stages", "distributed/test_resume"],
    "distributed/*": [f"distributed/test_{n}" for n in f"{_QUICK} launch device_links faults resume equality".split()],
}
"""Files -> what tests them, the quickest first."""

Job = tuple[Mutant | None, tuple[str, ...]]


class Limit:
    """A pytest plugin: the process dies when a test takes too long."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self):
        signal.alarm(LIMIT_S)
        return (yield)


def main() -> None:
    """Print the survivors and what part was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", default="40", help="number of mutants, or 'all'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of files, as in 'engine/*'")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    mutated = [(mutant, suite_of(mutant.file)) for mutant in draw(asked.only, asked.sample, asked.seed)]
    unchanged = [(None, tests) for tests in dict.fromkeys(tests for _, tests in mutated)]
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a mutant within a second of the last would be taken for it
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        skip = shutil.ignore_patterns(".git", ".venv", ".dvc", "__pycache__", "results", "build", "lightning_logs")
        copies = [shutil.copytree(ROOT, Path(folder) / str(job), ignore=skip) for job in range(asked.jobs)]
        if len(run(unchanged, copies)) < len(unchanged):
            sys.exit("make mutants: error: tests fail without a mutant")
        survivors = sorted(str(mutant) for mutant, _ in run(mutated, copies))
    print(*survivors, f"killed {len(mutated) - len(survivors)} of {len(mutated)}", sep="\n")
    print(f"{100 - 100 * len(survivors) / max(1, len(mutated)):.1f} %")


def draw(only: list[str], sample: str, seed: int) -> list[Mutant]:
    """A sample of the mutants that are not known to be equivalent, in random order."""
    known = [line for lines in equivalent().values() for line in lines]
    found = [
        one
        for one in all_mutants()
        if any(fnmatch(one.file, p) for p in only) and not any(covers(line, one) for line in known)
    ]
    return random.Random(seed).sample(found, len(found) if sample == "all" else min(int(sample), len(found)))


def all_mutants() -> list[Mutant]:
    """Of all files of the core."""
    library = ROOT / LIBRARY
    names = [str(path.relative_to(library)) for part in CORE for path in sorted(library.glob(part))]
    return [mutant for name in names if name not in FOR_GPUS for mutant in mutants(library / name, name)]


def equivalent() -> dict[str, list[str]]:
    """Why nothing can notice a mutant -> such mutants, ``FILE  BEFORE  ->  AFTER``."""
    blocks = (Path(__file__).parent / "equivalent.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return {why: [line.strip() for line in lines] for why, *lines in map(str.splitlines, filter(None, blocks))}


def covers(line: str, mutant: Mutant) -> bool:
    """Whether a line of the table is the mutant's, or ends in an asterisk and is its beginning."""
    told = f"{mutant.file}  {mutant.change}"
    return told.startswith(line[:-1]) if line.endswith("*") else told == line


def suite_of(file: str) -> tuple[str, ...]:
    """Arguments of pytest."""
    tests = next(tests for pattern, tests in TESTS.items() if fnmatch(file, pattern))
    return tuple(f"tests/{test}" + ".py" * ("test_" in test) for test in tests)


def run(jobs: list[Job], copies: list[Path]) -> list[Job]:
    """Those of the jobs whose tests pass; as many at a time as there are copies of the tree."""
    todo, free, running, passed = jobs[::-1], list(copies), {}, []
    while todo or running:
        while todo and free:
            job, copy = todo.pop(), free.pop()
            running[start(*job, copy)] = job, copy, time.monotonic()
        process, status = os.wait()
        (mutant, tests), copy, began = running.pop(process)
        free.append(copy)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it has started
        if mutant is not None:
            shutil.copy(ROOT / LIBRARY / mutant.file, copy / LIBRARY / mutant.file)
        passed += [(mutant, tests)] if status == 0 else []
        told = f"{'failed' if status else 'passed'} after {time.monotonic() - began:.0f} s: {mutant or 'no mutant'}"
        print(f"{len(jobs) - len(todo) - len(running)} of {len(jobs)} {told}", file=sys.stderr, flush=True)
    return passed


def start(mutant: Mutant | None, tests: tuple[str, ...], copy: Path) -> int:
    """A process that runs tests with a mutant and ends with 0 if they pass."""
    if mutant is not None:
        (copy / LIBRARY / mutant.file).write_text(mutant.source(), encoding="utf-8")
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
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={copy / 'tmp'}"]
        code = pytest.main([*options, *tests], plugins=[Limit()])
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
