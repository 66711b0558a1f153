"""``make mutants``: which one-token changes of the training engine does no test notice?

Draws mutants by a seed, puts one after the other into a copy of the tree, and runs those tests of the file's own that
run the changed line, the quickest first, until one fails. Beforehand all these tests run once, unchanged.
"""

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.trial import IMPORT, LIBRARY, record, survivors

ROOT = Path(__file__).parents[2]
FOR_GPUS = ("engine/cuda_graph.py", "pipeline/devices.py")
IMPORTED = ("pydantic", "pytorch_lightning", "sklearn.datasets", "torch.distributed.run", "torchvision")
TESTS = {
    "delays.py": ("tests/test_delays_and_stages.py",),
    "stages.py": (
        "tests/test_delays_and_stages.py",
        "tests/engine/test_construction.py",
        "tests/planning/test_balance.py",
    ),
    "strategies/*.py": (
        "tests/strategies",
        "tests/theory/test_optimal.py",
        "tests/theory/test_reconstruction.py",
        "tests/lab/runs/test_validation.py",
    ),
    "engine/*.py": ("tests/engine", "tests/test_reference.py", "tests/programs", "tests/lab/runs/test_run.py"),
    "pipeline/*.py": ("tests/pipeline",),
    "pipeline/health/*.py": ("tests/pipeline",),
    "planning/*.py": ("tests/planning",),
    "theory/*.py": ("tests/theory",),
    "lab/judging/*.py": ("tests/lab/judging",),
    "cli/ranks.py": ("tests/cli/test_launch.py", "tests/cli/test_launch_settings.py", "tests/cli/test_hosts.py"),
}
"""The files that are mutated -> what tests them."""
STARTED = {"cli/ranks.py": "tests/cli/test_launch.py", "strategies/compiled.py": "tests/strategies/test_sweeps.py"}
"""Files whose lines run in processes that these tests start, or as machine code: which test runs which line is not
recorded."""


def main() -> None:
    """Print the survivors and what part was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", default="40", help="number of mutants, or 'all'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of files, as in 'engine/*'")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    drawn = draw(asked.only, asked.sample, asked.seed)
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = True  # a mutant within a second of the last would be taken for it
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        skip = shutil.ignore_patterns(".git", ".venv", ".dvc", "__pycache__", "results", "build", "lightning_logs")
        copies = [shutil.copytree(ROOT, Path(folder) / str(job), ignore=skip) for job in range(asked.jobs)]
        times = record(copies[0], sorted({test for mutant in drawn for test in suite_of(mutant)}))
        alive = survivors([(mutant, tests_of(mutant, times)) for mutant in drawn], ROOT, copies)
    print(*sorted(map(str, alive)), f"killed {len(drawn) - len(alive)} of {len(drawn)}", sep="\n")
    print(f"{100 - 100 * len(alive) / max(1, len(drawn)):.1f} %")


def draw(only: list[str], sample: str, seed: int) -> list[Mutant]:
    """A sample of the mutants that are not known to be equivalent, in random order."""
    known = [line for lines in equivalent().values() for line in lines]
    found = [one for one in all_mutants() if any(fnmatch(one.file, pattern) for pattern in only)]
    found = [one for one in found if not any(covers(line, one) for line in known)]
    return random.Random(seed).sample(found, len(found) if sample == "all" else min(int(sample), len(found)))


def all_mutants() -> list[Mutant]:
    """Of all files of the core."""
    library = ROOT / LIBRARY
    names = [str(path.relative_to(library)) for pattern in TESTS for path in sorted(library.glob(pattern))]
    return [mutant for name in names if name not in FOR_GPUS for mutant in mutants(library / name, name)]


def equivalent() -> dict[str, list[str]]:
    """Why nothing can notice a mutant -> such mutants, ``FILE  BEFORE  ->  AFTER``."""
    blocks = (Path(__file__).parent / "equivalent.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return {why: [line.strip() for line in lines] for why, *lines in map(str.splitlines, filter(None, blocks))}


def covers(line: str, mutant: Mutant) -> bool:
    """Whether a line of the table is the mutant's, or ends in an asterisk and is its beginning."""
    told = f"{mutant.file}  {mutant.change}"
    return told.startswith(line[:-1]) if line.endswith("*") else told == line


def suite_of(mutant: Mutant) -> tuple[str, ...]:
    """Files and folders with the tests of the mutant's file."""
    return next(tests for pattern, tests in TESTS.items() if fnmatch(mutant.file, pattern))


def tests_of(mutant: Mutant, times: dict[str, tuple[float, set[str]]]) -> list[str]:
    """The tests of ``suite_of`` that run the changed lines (all, if import runs them), the quickest first."""
    own = [node for node in sorted(times, key=lambda node: times[node][0]) if node.startswith(suite_of(mutant))]
    changed = {f"{mutant.file}:{line}" for line in mutant.lines}
    imported, started = bool(changed & times[IMPORT][1]), STARTED.get(mutant.file, "nothing")
    return [node for node in own if imported or changed & times[node][1] or node.startswith(started)]


if __name__ == "__main__":
    main()
