"""A run of the study takes a row by its name, with an optimizer and a number of mini-batches per update."""

import json

import pytest

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment
from experiments.field import laws
from experiments.field.rows import SCREENED
from experiments.processes import workers
from layerpipe2 import UserError, find_strategy
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import read_record, write_record
from layerpipe2.lab.runs.train import train_run
from tests.sampling import slow

SMALL = {"width": 8, "group_size": 3, "epochs": 2, "batch_size": 128}
"""Three stages, two epochs of eight mini-batches."""


def train(**settings):
    return train_run(RunConfig(**SMALL | settings), data=load("digits"), progress=False)


RUNS = {
    "feedback": {"optimizer": "muon", "lr": 0.003},
    "2bw": {
        "optimizer": "nadam",
        "lr": 0.003,
        "accumulate": 3,
        "convention": "custom",
        "delays": laws.constant_one(3, 3).per_stage,
    },
    "rotation": {"optimizer": "rotated", "lr": 0.003},
    "look-ahead": {"optimizer": "look-ahead", "lr": 0.5},
    "xpipe-3": {"convention": "pipedream"},
    "t1-8+t2": {"stash_epochs": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_takes_a_row(name, tmp_path):
    record = train(strategy=name, **RUNS[name])
    write_record(tmp_path / "record.json", record)
    found = read_record(tmp_path / "record.json")
    assert (found["status"], found["config"]["strategy"]) == ("completed", name)
    assert found["epochs"][-1]["train_loss"] < found["epochs"][0]["train_loss"]


def test_accumulated_updates_are_recorded_and_one_mini_batch_is_not():
    plain, one, three = train(), train(accumulate=1), train(accumulate=3, schedule="cosine")
    assert "accumulate" not in plain["config"]
    assert one["config"] == plain["config"] | {"accumulate": 1}
    assert one["epochs"] == plain["epochs"]
    sizes = three["network"]["parameters_per_stage"]
    assert three["delays"] == [4, 2, 0]
    assert three["history_copies"] == pytest.approx(
        (2 * sizes[0] + sizes[1]) / sum(sizes)
    )  # 4 / 3 and 2 / 3, rounded up
    assert three["epochs"][0]["lr"] == plain["epochs"][0]["lr"]
    assert three["epochs"][1]["lr"] == pytest.approx(0.005)  # half of 2 x 2 updates are done
    with pytest.raises(UserError, match="accumulate is 9; give at most 8, an epoch's mini-batches"):
        train(accumulate=9)
    with pytest.raises(UserError, match=r"probe_every looks at .*, and accumulate is 2; give one"):
        RunConfig(accumulate=2, probe_every=5)


def test_a_row_and_an_optimizer_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="'gap-aware' is not defined for the optimizer nadam; take sgd"):
        train(strategy="gap-aware", optimizer="nadam")
    with pytest.raises(UserError, match=r"'rotation.feedback' is not defined for the optimizer muon; take rotated"):
        train(strategy="rotation+feedback", optimizer="muon")
    with pytest.raises(UserError, match=r"'nadam.spectrain' is .*; take another strategy"):
        train(strategy="nadam+spectrain")
    with pytest.raises(UserError, match="optimizer is 'nothing'; give one of sgd, adamw"):
        RunConfig(optimizer="nothing")


def experiment(folder, **changes):
    own = {"optimizers": list(SCREENED), "strategies": ["stash", "spectrain", "feedback+ema-span"], **changes}
    own["optimizer_settings"] = {name: {"optimizer": name} for name in SCREENED}
    path = folder / "field.yaml"
    path.write_text(
        json.dumps({"like": "digits", **dict.fromkeys(("tuning", "common_seeds")), "common_rates": {}, **own})
    )
    return read_experiment(str(path))


def test_an_experiment_has_rows(tmp_path):
    cells = Grid.of(experiment(tmp_path), tmp_path).cells
    assert {(cell.optimizer, cell.strategy) for cell in cells} >= {
        ("muon", "spectrain"),
        ("nadam", "feedback+ema-span"),
    }
    with pytest.raises(UserError, match=r"strategies.* 't1' needs its updates"):
        experiment(tmp_path, strategies=["stash", "t1"])


def label_of(name):
    return find_strategy(name).label


@slow
def test_processes_that_train_know_the_rows():
    with workers(1) as pool:
        assert pool.submit(label_of, "t1-8+t2").result() == "PipeMare T1 + PipeMare T2"
