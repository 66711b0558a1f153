"""A tiny reproduction while another process holds most of the memory: its results and figures are the same bytes."""

import os
import runpy
import time
from pathlib import Path

from tests.chaos.attack import Act, Failed, Scene
from tests.chaos.processes import ended, fork, kill

ROOT = Path(__file__).parents[2]
_LEFT_GB = 1.5


def _reproduce(clone: Path) -> None:
    runpy.run_path(str(ROOT / ".ci" / "tiny_reproduction.py"))["reproduce"](clone, ["mlp"])


def prepare(folder: Path) -> None:
    """A reproduction with all the memory there is."""
    _reproduce(folder / "clone")


def pressed(scene: Scene) -> Act:
    """The same again, with the memory held."""

    def act() -> str:
        scene.out.mkdir()
        holder = fork(_hold_memory, scene.out / "said")
        try:
            _reproduce(scene.out / "clone")
        finally:
            kill([holder])
            ended(holder)
        found, expected = (outcome(folder / "clone") for folder in (scene.out, scene.prepared))
        if wrong := [name for name in {*found, *expected} if found.get(name) != expected.get(name)]:
            raise Failed("different", f"other bytes: {sorted(wrong)}")
        return "equal"

    return act


def _hold_memory() -> None:
    """Take what is free, down to the rest that is left to others, and give back when they need more than that."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # if the kernel must end something, then this
    held: list[bytearray] = []
    block = 2**26
    while os.getppid() > 1:
        spare = _available_gb() - _LEFT_GB
        if spare > 0.1:
            held.append(bytearray(os.urandom(4096)) * (block // 4096))
        elif spare < -0.1 and held and _available_gb() < _LEFT_GB / 5:
            held.pop()
        else:
            time.sleep(0.05)


def _available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20


def outcome(clone: Path) -> dict[str, bytes]:
    """Figures, tables and results by their path, without the table of times."""
    paths = {*clone.glob("paper_figures/out/figures/*"), *clone.glob("results/*.csv"), *clone.glob("results/curves/*")}
    wanted = [*paths - {clone / "results" / "times.csv"}, clone / "results" / "metrics.json"]
    return {str(path.relative_to(clone)): path.read_bytes() for path in wanted}
