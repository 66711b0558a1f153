"""Mistakes that a newcomer made: each is one line with its remedy, and a diverging run is a result."""

import math

import pytest
import torch

from layerpipe2 import Delays, PipelinedModule, UserError, make_history
from layerpipe2.cli import main
from layerpipe2.cli.schedule import _simulated
from layerpipe2.delays import DELAY_LAWS
from layerpipe2.distributed import checkpoint as by_stage
from layerpipe2.distributed.store import first_line
from layerpipe2.runs.checkpoints import LAST_CHECKPOINT
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.train import train_run

SMALL = {"width": 8, "batch_size": 256, "group_size": 3, "schedule": "constant"}


def said(capsys, *command: str) -> str:
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    "strategy", ["stash", "latest", "ema-span", "ema-lsq-raw", "pair", "pair-0.9", "update-window"]
)
def test_every_strategy_may_diverge(strategy):
    record = train_run(RunConfig(**SMALL, strategy=strategy, lr=1e12, epochs=3), progress=False)
    assert record["status"] == "diverged"
    assert record["test"]["accuracy"] is None


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
@pytest.mark.parametrize(("processors", "batches"), [(1, 8), (4, 1), (8, 1), (20, 8), (64, 8)])
def test_a_schedule_shows_the_delays_of_a_full_pipeline(convention, processors, batches):
    found = _simulated(convention, processors, batches, (1.0, 1.0, 1.0)).schedule.delays()
    assert tuple(found) == DELAY_LAWS[convention].delays(processors)


def test_a_state_is_not_overwritten_unasked(tmp_path):
    config = RunConfig(**SMALL, epochs=1)
    train_run(config, progress=False, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"last\.ckpt holds the state of a run; give --resume to go on with it, or"):
        train_run(config, progress=False, checkpoint_dir=tmp_path)
    (tmp_path / LAST_CHECKPOINT).write_bytes(b"half of one")
    with pytest.raises(UserError, match=r"last\.ckpt can't be read; delete it and start without resuming"):
        train_run(config, progress=False, checkpoint_dir=tmp_path, resume=True)


def test_a_state_of_several_processes_is_told_from_one_of_one(tmp_path):
    (tmp_path / LAST_CHECKPOINT).mkdir()
    with pytest.raises(UserError, match="was written by several processes; go on under `layerpipe2 launch`"):
        train_run(RunConfig(**SMALL), progress=False, checkpoint_dir=tmp_path, resume=True)
    file = tmp_path / "file.ckpt"
    file.touch()
    by_stage.write(file, {"pipeline": {}}, {}, first=True, barrier=lambda: None)
    assert file.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.ckpt", LAST_CHECKPOINT]
    with pytest.raises(UserError, match="no checkpoint of a pipeline of several processes"):
        by_stage.whole_state_dict(str(tmp_path / "none"))
    assert by_stage.whole_state_dict(str(file)) == {}


def test_a_resumed_run_keeps_its_limit(tmp_path):
    config = RunConfig(**SMALL, epochs=4, max_steps=6)  # four mini-batches an epoch
    whole = train_run(config, progress=False, checkpoint_dir=tmp_path)
    again = train_run(config, progress=False, checkpoint_dir=tmp_path, resume=True)
    assert (again["epochs"], again["test"]) == (whole["epochs"], whole["test"])
    assert len(again["epochs"]) == 2


def test_settings_that_cannot_be(capsys):
    assert said(capsys, "train", "--nesterov", "--momentum", "0").endswith("give a momentum above 0")
    assert said(capsys, "train", "--seed", "-1").endswith("give an integer >= 0 and <= 4294967295")
    assert "--timeout is -1.0; give a finite number > 0" in said(
        capsys, "launch", "--processes", "2", "--timeout", "-1", "--", __file__
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("schedule", "history", "optimizer", "message"),
    [
        ([2, 0], "stash", sgd, r"delays is a list; give a Delays, such as Delays\.layerpipe2\(4\)"),
        (None, None, sgd, r"history is a str; give a WeightHistory, such as make_history\('ema-span'\)"),
        (None, "stash", sgd([torch.nn.Parameter(torch.zeros(1))]), "optimizer is no function"),
    ],
)
def test_what_a_module_is_made_of(schedule, history, optimizer, message):
    layers = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]
    with pytest.raises(UserError, match=message):
        PipelinedModule(
            layers,
            schedule or Delays.layerpipe2(2),
            make_history(history) if history else "stash",
            optimizer=optimizer,
        )


def test_an_optimizer_that_is_not_returned():
    layers = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]
    module = PipelinedModule(layers, Delays.layerpipe2(2), make_history("stash"), optimizer=lambda p: None)
    with pytest.raises(UserError, match=r"optimizer returned a NoneType; it must return a torch\.optim optimizer"):
        module.configure_optimizers()


def test_a_correlation_that_is_not_a_number_is_none():
    history, weights = make_history("pair"), torch.zeros(64)
    state = history.init(weights, 4)
    for step in range(8):
        history.record(state, torch.full((64,), math.nan), torch.tensor([step]))
    assert history.recall(state, weights, weights, torch.tensor([8])).isnan().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "nesterov": True}, "nesterov is a form of sgd's momentum; the optimizer is adamw"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs is 3, but there are 2 epochs"),
    ],
)
def test_settings_that_would_do_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        RunConfig(**settings)


def test_a_schedule_that_is_left_out_is_named(capsys):
    assert main(["schedule", "--processors", "3", "--batches", "8"]) == 0
    assert capsys.readouterr().out.strip().endswith("interleaved is left out: --batches 8 is no multiple of 3")
    assert main(["schedule", "--processors", "4", "--batches", "8"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_script_that_ends_itself_is_told_as_that():
    assert first_line(SystemExit(7)) == "called sys.exit(7)"
