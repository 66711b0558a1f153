"""The README's first command in a clone of the last commit, build/tiny, with the digits in place of the default study.

There is little to train: two networks, two seeds.

Then: a second run does nothing, a changed momentum reruns that network alone, one more seed trains its runs alone,
figure code retrains nothing, `dvc metrics` and `dvc plots` say something, and a mistake in the experiment's file is
one line. At last the records get other last digits, as from another kind of CPU: the clone is what somebody there has
after `make reproduce`, and `.ci/run` calls `make test` in it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from layerpipe2.lab.runs import cell_file

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ["mlp", "resnet-small"]
EXPERIMENT, SMALL = "experiments/mnist1d.yaml", "experiments/digits.yaml"


def main() -> None:
    """Reproduce, then change things."""
    clone = ROOT / "build" / "tiny"
    printed = reproduce(clone, NETWORKS)
    expect("Published: commit" in printed and "missing here" in printed, "published and own results stand side by side")
    expect(json.loads((clone / "results/metrics.json").read_text())["runs"] == 16, "16 runs were collected")
    rates = json.loads((clone / "results/tuned.json").read_text())["mlp"]
    expect(len(rates) == 3 and all(0.005 <= rate["lr"] <= 1.5 for rate in rates.values()), "strategies are tuned")
    expect((clone / "paper_figures/out/report.md").is_file(), "a report was written")
    dvc(clone, "repro")
    expect("up to date" in dvc(clone, "repro"), "a second run does nothing")
    check_reruns(clone)
    expect("accuracy" in dvc(clone, "metrics", "show", "--json"), "dvc metrics says something")
    expect("mlp.csv" in dvc(clone, "plots", "show", "--json"), "dvc plots says something")
    sound = (clone / EXPERIMENT).read_text()
    change(clone, "network_settings", mlp={"width": 8, "lr": -1})
    failed = dvc(clone, "repro", code=255)
    expect("mnist1d.yaml: network_settings.mlp.lr is -1; give a finite number > 0" in failed, "a mistake is named")
    expect("Traceback" not in failed, "without a traceback")
    (clone / EXPERIMENT).write_text(sound)
    check_other_digits(clone)


def reproduce(clone: Path, networks: list[str]) -> str:
    """Make the clone, and in it a reproduction of little: two strategies, two seeds, two epochs, two rates."""
    shutil.rmtree(clone, ignore_errors=True)
    run(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
    (clone / ".venv").symlink_to(ROOT / ".venv")
    os.utime(clone / "pyproject.toml", (0, 0))  # older than the environment: nothing is to be installed
    shutil.copy(clone / SMALL, clone / EXPERIMENT)
    places = {"records": "results", "tables": "results", "cell": "{network}/{group}/{strategy}", "times_apart": True}
    change(clone, **places, published=True, probe_seeds=[0, 1])
    change(clone, networks=networks, group_sizes=[4], strategies=["stash", "ema-window"], seeds=[0, 1])
    change(clone, other_seeds=[0, 1], common_seeds=[0, 1], common_rates={"mlp": 0.03})
    change(clone, "settings", probe_every=5)
    change(clone, "tuning", trials=2, moves=0)
    change(clone, "dataset_settings", digits={"batch_size": 64, "epochs": 2})
    run([sys.executable, "-m", "experiments.tune", "mnist1d", "--quiet"], clone)  # which DVC doesn't rerun
    return run(["make", "reproduce"], clone)


def check_other_digits(clone: Path) -> None:
    """Other last digits in every record go through to the tables, without any training."""
    dvc(clone, "repro", "collect")
    before = read_losses(clone)
    records = cell_file.read_all(clone / "results" / "runs")
    for path, record in records.items():
        cell_file.write(path, other_digits(record))
    printed = run(["make", "reproduce"], clone)
    after = read_losses(clone)
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old]
    apart = max(abs(float(new) / float(old) - 1) for old, new in pairs)
    expect(0 < apart < 1e-6, f"last digits of {len(records)} records differ, and nothing was trained")
    expect("rows differ" in printed, "the comparison with the published results says that rows differ")
    run(["git", "checkout", "--quiet", EXPERIMENT], clone)


def other_digits(value: Any) -> Any:
    """The value with every number but whole ones a ten-millionth smaller."""
    if isinstance(value, dict):
        kept = ("config", "provenance")
        return {name: item if name in kept else other_digits(item) for name, item in value.items()}
    if isinstance(value, list):
        return [other_digits(item) for item in value]
    return value * (1 - 1e-7) if isinstance(value, float) else value


def read_losses(clone: Path) -> list[str]:
    """Test losses of all runs, as they stand in the table."""
    with (clone / "results" / "runs.csv").open() as file:
        return [row["test_loss"] for row in csv.DictReader(file)]


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
    before = {path: path.stat().st_mtime_ns for path in (clone / "results/times").rglob("*.json")}
    change(clone, seeds=[0, 1, 2])
    dvc(clone, "repro", "collect")
    after = {path: path.stat().st_mtime_ns for path in (clone / "results/times").rglob("*.json")}
    expect(before.items() < after.items() and len(after) == len(before) + 6, "one more seed trains its runs alone")


def changed(clone: Path) -> set[str]:
    """Names of the stages that DVC finds changed."""
    return set(json.loads(dvc(clone, "status", "--json").splitlines()[0]))  # then a note that the search is frozen


def dvc(clone: Path, *arguments: str, code: int = 0) -> str:
    """Run dvc on the clone's own code; returns what it printed."""
    return run([sys.executable, "-m", "dvc", *arguments], clone, code)


def run(command: list[str], folder: Path, code: int = 0) -> str:
    """Run a command on the clone's own code; returns what it printed, and ends all if its exit code isn't ``code``."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != code:
        what = f"{' '.join(command)} ended with {done.returncode}"
        sys.exit(f"tiny reproduction: {what}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def change(clone: Path, *section: str, **values: Any) -> None:
    """Change values of the default experiment in the clone, at the top of its file or in one section."""
    path = clone / EXPERIMENT
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
