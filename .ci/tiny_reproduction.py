"""The whole pipeline from end to end in a clone of the last commit: two networks, two epochs, two seeds.

Then: a second run does nothing, a changed momentum reruns that network alone, one more seed trains its runs alone,
figure code retrains nothing, `dvc metrics` and `dvc plots` say something, and a mistake in the experiment's file is
one line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ["mlp", "resnet-small"]


def main() -> None:
    """Reproduce, then change things."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        reproduce(clone, NETWORKS)
        expect(json.loads((clone / "results/metrics.json").read_text())["runs"] == 16, "16 runs were collected")
        rates = json.loads((clone / "results/tuned.json").read_text())["mlp"]
        expect(len(rates) == 3 and all(0.005 <= rate["lr"] <= 1.5 for rate in rates.values()), "strategies are tuned")
        expect((clone / "paper_figures/out/report.md").is_file(), "a report was written")
        expect("up to date" in dvc(clone, "repro"), "a second run does nothing")
        check_reruns(clone)
        expect("accuracy" in dvc(clone, "metrics", "show", "--json"), "dvc metrics says something")
        expect("mlp.csv" in dvc(clone, "plots", "show", "--json"), "dvc plots says something")
        change(clone, "network_settings", mlp={"width": 8, "lr": -1})
        failed = dvc(clone, "repro", code=255)
        expect("digits.yaml: network_settings.mlp.lr is -1; give a finite number > 0" in failed, "a mistake is named")
        expect("Traceback" not in failed, "without a traceback")


def reproduce(clone: Path, networks: list[str]) -> None:
    """Make the clone, and in it a reproduction of little: two strategies, two seeds, two epochs, two rates."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    change(clone, networks=networks, group_sizes=[4], strategies=["stash", "ema-window"], seeds=[0, 1])
    change(clone, other_seeds=[0, 1], common_seeds=[0, 1], common_rates={"mlp": 0.03})
    change(clone, "settings", probe_every=5)
    change(clone, "tuning", trials=2, moves=0)
    change(clone, "dataset_settings", digits={"batch_size": 64, "epochs": 2})
    dvc(clone, "repro")


def check_reruns(clone: Path) -> None:
    """What would run after a change of figure code, and of one network's parameter; what runs for one more seed."""
    code = clone / "paper_figures" / "style.py"
    style = code.read_text()
    code.write_text(f"{style}\n# changed\n")
    stages = changed(clone)
    expect("paper" in stages, "a change of figure code redraws the figures")
    expect(not any(stage.startswith(("train", "collect")) for stage in stages), "and retrains nothing")
    code.write_text(style)
    change(clone, "network_settings", mlp={"width": 8, "momentum": 0.4})
    stages = changed(clone)
    expect("train@mlp" in stages, "a network's parameter reruns that network")
    expect(not any("resnet-small" in stage for stage in stages), "and no other")
    dvc(clone, "repro", "collect")  # the figures were drawn above
    before = {path: path.stat().st_mtime_ns for path in (clone / "results/runs").rglob("*.json")}
    change(clone, seeds=[0, 1, 2])
    dvc(clone, "repro", "collect")
    after = {path: path.stat().st_mtime_ns for path in (clone / "results/runs").rglob("*.json")}
    expect(before.items() < after.items() and len(after) == len(before) + 6, "one more seed trains its runs alone")


def changed(clone: Path) -> set[str]:
    """Names of the stages that DVC finds changed."""
    return set(json.loads(dvc(clone, "status", "--json")))


def dvc(clone: Path, *arguments: str, code: int = 0) -> str:
    """Run dvc on the clone's own code; returns what it printed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(clone / "src"), str(clone)]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != code:
        what = f"dvc {' '.join(arguments)} ended with {done.returncode}"
        sys.exit(f"tiny reproduction: {what}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def change(clone: Path, *section: str, **values: Any) -> None:
    """Change values of the default experiment in the clone, at the top of its file or in one section."""
    path = clone / "experiments" / "digits.yaml"
    content = yaml.safe_load(path.read_text())
    (content[section[0]] if section else content).update(values)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def expect(holds: bool, what: str) -> None:
    """Report a check; end at the first that fails."""
    print(f"tiny reproduction: {'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
