"""What studies and MLflow cost, as ratios in one run: python -m experiments.benchmarks.studies --rounds 5.

Every round runs each variant once, in turn, in a fresh process and an empty folder; the table gives medians.

``overhead per trial``  seconds of a study with one process, from its first trial's start to its last one's end, less
                        those that its runs took, per trial
``two processes``       trials per minute with two processes, over those with one: with the seconds in which the second
                        one imports torch and Optuna, and once both are at work
``live MLflow``         seconds of `layerpipe2 train --mlflow`, over those without: of the training, and of it all
``status``              seconds of `layerpipe2 tune status` for a study of 1,000 trials
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tuning.study import Study, open_existing, open_or_make
from layerpipe2.lab.tuning.trial_locks import WORKER
from layerpipe2.lab.tuning.tune import study_settings

RUN = ["--group-size", "3", "--strategy", "ema-span"]
SPACE = ["--space", "lr=log:0.01:0.3", "--pruner", "none"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line per figure.

    Raises:
        UserError: on a number that is no count.
    """
    options = _parser().parse_args(arguments)
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, value in _round(options.trials, options.epochs).items():
            found.setdefault(name, []).append(value)
    print(f"n = {options.rounds} rounds; studies of {options.trials} trials of {options.epochs} epochs, digits, MLP")
    for name, values in found.items():
        print(f"{name:42} {statistics.median(values):7.3f}   ({min(values):.3f} to {max(values):.3f})")


def _round(trials: int, epochs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one, two = (_study(place / str(jobs), trials, epochs, jobs) for jobs in (1, 2))
        plain, live = (_train(place / f"{name}.json", options) for name, options in (("plain", []), ("live", ["live"])))
        _thousand(place / "thousand")
        started = time.perf_counter()
        _run("tune", "status", "--out", str(place / "thousand"))
        return {
            "overhead per trial (s)": _overhead(one),
            "trials per minute, 2 processes over 1": _seconds(one) / _seconds(two),
            "the same, once both are at work": _pace(two) / _pace(one),
            "live MLflow, training": live[0] / plain[0],
            "live MLflow, from start to end": live[1] / plain[1],
            "tune status of 1,000 trials (s)": time.perf_counter() - started,
        }


def _study(folder: Path, trials: int, epochs: int, jobs: int) -> Study:
    counts = ["--trials", str(trials), "--epochs", str(epochs), "--jobs", str(jobs)]
    _run("tune", *RUN, *SPACE, *counts, "--out", str(folder), "--quiet")
    return open_existing(folder)


def _times(study: Study) -> list[tuple[float, float, int]]:
    """Start and end (s) of every trial, in order of the starts, and the process that did it."""
    return sorted(
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp(), int(trial.user_attrs[WORKER][1]))
        for trial in study.trials()
        if trial.datetime_start and trial.datetime_complete
    )


def _seconds(study: Study) -> float:
    """Return the time from the first trial's start to the last one's end."""
    times = _times(study)
    return max(end for _, end, _ in times) - times[0][0]


def _pace(study: Study) -> float:
    """Trials per second from the moment at which every process has begun one."""
    times = _times(study)
    began = max({process: start for start, _, process in reversed(times)}.values())
    ends = [end for start, end, _ in times if start >= began]
    return len(ends) / (max(ends) - began)


def _overhead(study: Study) -> float:
    records = [read_record(path) for path in study.folder.rglob("*.json")]
    trained = sum(float(record["provenance"]["wall_time_s"]) for record in records)
    return (_seconds(study) - trained) / len(records)


def _train(record: Path, live: list[str]) -> tuple[float, float]:
    """Seconds of the training, and of the process, for a run as long as those of the default study."""
    options = ["--mlflow", str(record.with_suffix(".db"))] if live else []
    started = time.perf_counter()
    _run("train", *RUN, "--epochs", "12", "--batch-size", "32", "--quiet", "--out", str(record), *options)
    seconds = time.perf_counter() - started
    return float(json.loads(record.read_text())["provenance"]["train_time_s"]), seconds


def _thousand(folder: Path) -> None:
    """A study with 1,000 finished trials, made up."""
    settings = study_settings(RunConfig(), {"lr": "log:0.01:0.3"}, trials=1000, pruner="none")
    study = open_or_make(settings, folder)
    for trial in study.trials():
        study.optuna_study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [0.5])


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "layerpipe2", *arguments], check=True, stdout=subprocess.DEVNULL)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m experiments.benchmarks.studies", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=within(int, 1, 1000), default=5, help="default: %(default)s")
    add("--trials", type=within(int, 2, 1000), default=24, help="of each study; default: %(default)s")
    add("--epochs", type=within(int, 1, 1000), default=10, help="of each trial; default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("experiments.benchmarks.studies", main, None))
