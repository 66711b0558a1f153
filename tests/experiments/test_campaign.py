"""A campaign: its runs, the choice of learning rates, and what is said before it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaign_profiles import ROOT, SCRIPT, TINY, campaign, write_params

from experiments.campaign.estimate import Speed, in_words
from experiments.campaign.params import Profile
from experiments.campaign.tasks import Campaign, Cell
from experiments.campaign.work import work
from experiments.full_scale import run
from layerpipe2.errors import UserError
from layerpipe2.provenance import git_state

PARAMS = ROOT / "experiments" / "full_scale" / "params.yaml"
PROFILES = list(yaml.safe_load(PARAMS.read_text())["profiles"])


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_a_list_of_different_runs(name: str, tmp_path: Path) -> None:
    tasks = Campaign(Profile.from_file(PARAMS, name), tmp_path).tasks()
    assert len({task.path for task in tasks}) == len(tasks)
    assert len({json.dumps(task.config.to_dict() | {"tuned": task.final}, sort_keys=True) for task in tasks}) == len(
        tasks
    )


def test_the_full_profile_is_the_whole_experiment(tmp_path: Path) -> None:
    tasks = Campaign(Profile.from_file(PARAMS, "h100"), tmp_path).tasks()
    final = [task for task in tasks if task.final]
    assert {(t.config.dataset, t.config.network) for t in tasks} == {("cifar100", "resnet18")}
    assert {(t.cell.stages, t.config.group_size) for t in tasks} == {(1, 10), (3, 4), (5, 2), (10, 1)}
    assert {t.config.momentum for t in tasks} == {0.0, 0.9}
    assert min(t.config.epochs for t in final) >= 30
    assert len({t.config.seed for t in final}) >= 3
    rates: dict[Cell, int] = {}
    for task in tasks:
        if not task.final:
            rates[task.cell] = rates.get(task.cell, 0) + 1
    assert set(rates.values()) == {6}, "every strategy has the same budget"
    assert {t.cell for t in final} == set(rates)
    aware = {"ema-window", "ema-running", "ema-span", "ema-lsq", "pair"}
    assert {"stash", "latest", "ema-0.9", *aware, *(f"{s}-raw" for s in aware - {"pair"})} <= {
        c.strategy for c in rates
    }


def test_a_campaign_is_run_tuned_and_never_redone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--profile", "tiny", "--params", str(write_params(tmp_path)), "--out", str(tmp_path / "out")]
    run.main([*arguments, "--yes"])
    captured = capsys.readouterr()
    assert "18 of 18 runs are left: about " in captured.out
    assert "all 18 runs of tiny are finished" in captured.out
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".json"]
    mine = campaign(tmp_path)
    for task in mine.tasks():
        record = mine.record(task)
        assert record is not None
        where = record["provenance"]
        assert where["device"]
        assert where["wall_time_s"] > 0
        assert where["versions"]["torch"]
        assert {"commit", "dirty"} <= set(where)
        if task.final:
            assert record["config"]["lr"] == mine.best_rate(task.cell)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    run.main(arguments)  # nothing is left, so nothing is asked
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    other = campaign(tmp_path, settings=TINY["settings"] | {"width": 9})
    with pytest.raises(UserError, match=r"was made with width 8, the profile has 9; use another --out folder"):
        other.record(other.tasks()[0])


def fake_tuning(mine: Campaign, cell: Cell, reached: dict[float, float | None]) -> None:
    """Records of tuning runs with these validation accuracies; None diverged."""
    for task in mine.tasks():
        if not task.final and task.cell == cell and task.config.lr in reached:
            accuracy = reached[task.config.lr]
            status = "diverged" if accuracy is None else "completed"
            record = {"schema": 1, "config": task.config.to_dict(), "status": status}
            path = mine.folder / task.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record | {"epochs": [{"val_accuracy": 0.99}, {"val_accuracy": accuracy}]}))


@pytest.mark.parametrize(
    ("reached", "best"),
    [
        ({0.05: 0.3, 0.1: 0.4}, 0.1),
        ({0.05: 0.4, 0.1: 0.4}, 0.05),
        ({0.05: 0.1, 0.1: None}, 0.05),
        ({0.05: None, 0.1: None}, 0.05),
        ({0.05: 0.4}, None),
    ],
)
def test_the_learning_rate_is_the_best_at_the_end_on_validation(
    tmp_path: Path, reached: dict[float, float | None], best: float | None
) -> None:
    mine, cell = campaign(tmp_path), Cell("sgd", 3, "latest")
    fake_tuning(mine, cell, reached)
    assert mine.best_rate(cell) == best
    final = next(task for task in mine.tasks() if task.final and task.cell == cell)
    config = mine.ready(final)
    assert (None if config is None else config.lr) == best


def test_warm_up_runs_use_the_rate_of_the_strategy_without_warm_up(tmp_path: Path) -> None:
    mine, cell = campaign(tmp_path), Cell("sgd", 3, "ema-span")
    fake_tuning(mine, cell, {0.05: 0.3, 0.1: 0.4})
    warm = [task for task in mine.tasks() if task.config.stash_epochs]
    assert {task.path.name for task in warm} == {"sgd-3-ema-span-warm-s0.json", "sgd-3-ema-span-warm-s1.json"}
    assert [mine.ready(task).lr for task in warm] == [0.1, 0.1]  # type: ignore[union-attr]


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--profile", "tiny", *arguments]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_without_a_terminal_and_without_yes_it_says_how_long_it_takes_in_one_line(tmp_path: Path) -> None:
    done = start(tmp_path, "--params", str(write_params(tmp_path)))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().split("\n")
    assert "18 of 18 runs are left: about " in line
    assert " on this machine (1 side by side; sequential " in line
    assert line.endswith("there is no terminal to ask on: give --yes to start")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["params.yaml"]


@pytest.mark.parametrize("answer", ["n", ""])
def test_on_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)
    with pytest.raises(UserError, match="not confirmed; nothing was started"):
        run.main(["--profile", "tiny", "--params", str(write_params(tmp_path)), "--out", str(tmp_path / "out")])
    assert "18 of 18 runs are left: about " in asked[0]
    assert not list(tmp_path.rglob("*.json"))


def test_a_worker_notes_the_commit_before_it_trains(tmp_path: Path) -> None:
    git_state.cache_clear()
    work(campaign(tmp_path), None, deadline=0.0)
    assert git_state.cache_info().currsize == 1


def test_a_time_limit_begins_no_further_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--profile", "tiny", "--params", str(write_params(tmp_path)), "--out", str(tmp_path / "out")]
    run.main([*arguments, "--yes", "--minutes", "0"])
    assert "18 of 18 runs are left; start this again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [4], "warm_up": {}}, r"network mlp has 9 units, which can't be 4 stages; possible: 1, 2, 3, 5, 9"),
        ({"stages": [1]}, r"profiles\.tiny\.stages, entry is 1; give an integer >= 2"),
        ({"strategies": ["stash", "ema-span"]}, r"strategies lacks 'latest'"),
        ({"strategies": ["stash", "latest", "ema-spam"]}, r"unknown strategy 'ema-spam'"),
        ({"strategies": ["stash", "latest", "sequential"]}, r"has 'sequential', which is always there"),
        ({"optimizers": ["lion"]}, r"optimizers has no 'lion'; known: sgd"),
        ({"optimizers": "sgd"}, r"optimizers is 'sgd'; give a list"),
        ({"seeds": [100]}, r"tuning\.seed is 100, the seed of final runs"),
        ({"tuning": {"epochs": 0, "seed": 7}}, r"tuning\.epochs is 0; give an integer >= 1"),
        ({"settings": {"dataset": "digits", "lr": 0.1}}, r"profiles\.tiny\.settings: unknown key 'lr'"),
        ({"settings": {"epochs": "many"}}, r"profiles\.tiny\.settings\.epochs is 'many'; give an integer"),
        ({"warm_up": {"stages": [3], "strategies": ["pair"], "stash_epochs": 1}}, r"warm_up\.strategies has 'pair'"),
        ({"jobs": 0}, r"profiles\.tiny\.jobs is 0; give an integer >= 1"),
        ({"job": 1}, r"unknown key 'job'; did you mean 'jobs'\?"),
    ],
)
def test_mistakes_name_file_key_and_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        campaign(tmp_path, **changes).tasks()
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"profiles has no 'h200'; known: cpu-tiny, cpu, cpu-gpt, h100"):
        Profile.from_file(PARAMS, "h200")


def test_durations_and_speeds() -> None:
    assert [in_words(s) for s in (20, 600, 7260, 360_000)] == ["less than a minute", "10 min", "2 h 1 min", "4.2 days"]
    assert Speed(0.5, 2.0, steps=100, validation=3, test=5).seconds(epochs=2) == 2 * (50 + 6) + 10
