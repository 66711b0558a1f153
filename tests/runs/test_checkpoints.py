"""Checkpoints of a run: resuming is exact, and nothing is overwritten or taken for what it isn't."""

import pytest

from layerpipe2.distributed import checkpoint as by_stage
from layerpipe2.errors import UserError
from layerpipe2.runs.callbacks import EpochRecorder
from layerpipe2.runs.checkpoints import LAST_CHECKPOINT


def outcome(record):
    return {name: record[name] for name in ("epochs", "test", "reconstruction", "status")}


def interrupt_in_second_epoch(self, trainer, pl_module):
    if trainer.current_epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["stash", "ema-lsq"])
def test_a_resumed_run_equals_the_uninterrupted_one(train, tmp_path, strategy, monkeypatch):
    settings = {"strategy": strategy, "epochs": 3, "probe_every": 2, "augment": True}
    whole = train(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(EpochRecorder, "on_validation_start", interrupt_in_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(**settings, checkpoint_dir=tmp_path)
    assert outcome(train(**settings, checkpoint_dir=tmp_path, resume=True)) == outcome(whole)


def test_a_resumed_run_keeps_its_limit(train, tmp_path):
    settings = {"epochs": 4, "max_steps": 12, "checkpoint_dir": tmp_path}  # eight mini-batches an epoch
    whole = train(**settings)
    again = train(**settings, resume=True)
    assert (again["epochs"], again["test"]) == (whole["epochs"], whole["test"])
    assert len(again["epochs"]) == 2


def test_a_state_is_not_overwritten_unasked_nor_taken_for_another_runs(train, tmp_path):
    train(epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"last\.ckpt holds the state of a run; give --resume to go on with it, or"):
        train(epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"other settings \(lr was 0\.01\)"):
        train(epochs=1, lr=0.02, checkpoint_dir=tmp_path, resume=True)
    (tmp_path / LAST_CHECKPOINT).write_bytes(b"half of one")
    with pytest.raises(UserError, match=r"last\.ckpt can't be read; delete it and start without resuming"):
        train(epochs=1, checkpoint_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("folder", "resume", "message"),
    [
        ("", True, r"no checkpoint .*last\.ckpt to resume from"),
        (None, True, "nothing to resume from; name the folder"),
        ("file/checkpoints", False, "output folder .*checkpoints can't be made"),
    ],
)
def test_what_cannot_be_resumed_or_saved_is_refused_before_training(train, folder, resume, message, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        train(checkpoint_dir=None if folder is None else tmp_path / folder, resume=resume)


def test_a_state_of_several_processes_is_told_from_one_of_one(train, tmp_path):
    (tmp_path / LAST_CHECKPOINT).mkdir()
    with pytest.raises(UserError, match="was written by several processes; go on under `layerpipe2 launch`"):
        train(checkpoint_dir=tmp_path, resume=True)
    file = tmp_path / "file.ckpt"
    file.touch()
    by_stage.write(file, {"pipeline": {}}, {}, first=True, barrier=lambda: None)
    assert file.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.ckpt", LAST_CHECKPOINT]
    with pytest.raises(UserError, match="no checkpoint of a pipeline of several processes"):
        by_stage.whole_state_dict(str(tmp_path / "none"))
    assert by_stage.whole_state_dict(str(file)) == {}
