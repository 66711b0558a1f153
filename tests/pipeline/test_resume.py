"""A resumed run continues bit for bit, with as many processes as before or with others."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from layerpipe2 import make_strategy
from layerpipe2.engine.execution import StepLimit
from layerpipe2.pipeline import checkpoint
from layerpipe2.strategies import StashFirst
from tests.pipeline import processes
from tests.pipeline.fits import (
    Case,
    Rows,
    assert_same_weights,
    dense,
    in_process,
    merged,
    noise,
    pipelined,
    resumed_equals_whole,
    trainer,
)
from tests.pipeline.test_evaluated_buffers import Centred
from tests.pipeline.test_training import own_generator
from tests.sampling import sampled, slow

STAGES = [f"stage-{k:03d}.pt" for k in range(4)]


CASES = [
    Case("stash"),
    Case("latest"),
    Case("ema-window"),
    Case("pair", "pipedream"),
    Case("update-window", optimizer="adamw"),
    Case("ema-span-raw", drain=True),
    Case("ema-lsq", delays=(12, 7, 2, 0)),  # longer than two epochs
]


@pytest.mark.parametrize(("before", "after"), sampled([(2, 2), (4, 2), (1, 3)], [(4, 2)]))
@pytest.mark.parametrize("case", sampled(CASES, CASES[::3]), ids=str)
def test_resumed_equals_uninterrupted(case, before, after, tmp_path):
    again = replace(case, resume=tmp_path / "epoch=1.ckpt")
    resumed_equals_whole(lambda epoch: again if epoch else replace(case, folder=tmp_path), before, after)


def test_a_full_pipeline_is_saved_and_resumed_by_processes_that_compute_again(tmp_path):
    case, again = Case("stash", folder=tmp_path), Case("stash", resume=tmp_path / "epoch=1.ckpt")
    resumed_equals_whole(lambda epoch: again if epoch else case, 2, 4, recompute_activations=True)


@pytest.mark.parametrize("strategy", ["stash", "ema-window"])
def test_saving_changes_nothing_and_one_process_reads_the_weights(strategy, tmp_path):
    case = Case(strategy)
    saved, plain = (processes.run(in_process, 2, c) for c in (replace(case, folder=tmp_path), case))
    assert [rows for rows, _ in saved] == [rows for rows, _ in plain]
    assert sorted(path.name for path in (tmp_path / "epoch=1.ckpt").iterdir()) == ["common.pt", *STAGES]
    assert_same_weights(checkpoint.whole_state_dict(tmp_path / "epoch=2.ckpt"), merged(saved))


def test_what_does_not_fit(tmp_path):
    processes.run(in_process, 2, Case("stash", folder=tmp_path, epochs=1))
    folder = tmp_path / "epoch=0.ckpt"
    with pytest.raises(AssertionError, match=r"checkpoint does not fit stage [02]"):
        processes.run(in_process, 2, Case("pair", resume=folder))
    other = r"the checkpoint is of SGD, and this one trains with AdamW; resume with"
    with pytest.raises(AssertionError, match=other):
        processes.run(in_process, 1, Case("stash", optimizer="adamw", resume=folder))
    (folder / STAGES[3]).unlink()
    with pytest.raises(AssertionError, match="has no stage 3; resume with as many stages as it was saved with"):
        processes.run(in_process, 2, Case("stash", resume=folder))
    with pytest.raises(AssertionError, match="no checkpoint of a pipeline of several processes in"):
        processes.run(in_process, 1, Case("stash", resume=tmp_path / "nowhere"))


def test_saving_in_the_middle_of_an_epoch(tmp_path):
    case = Case(options={"max_steps": 8, "val_check_interval": 3}, folder=tmp_path)
    with pytest.raises(AssertionError, match="saves at the end of an epoch only"):
        processes.run(in_process, 2, case)


def test_killed_while_writing(tmp_path):
    """The folder is there whole or not at all, whenever the writer dies."""
    folder = tmp_path / "last.ckpt"

    def write(n):
        common = {"n": n, "pipeline": {}}
        checkpoint.write(folder, common, {}, mark=str(n), first=True, barrier=lambda: None)

    write(1)
    half = tmp_path / ".last.ckpt.part"
    half.mkdir()
    (half / "stage-000.pt").write_bytes(b"half")
    assert checkpoint.read(folder, [])["n"] == 1
    write(2)
    assert checkpoint.read(folder, [])["n"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    shutil.move(folder, tmp_path / ".last.ckpt.old")  # killed between the two renames
    assert checkpoint.read(folder, [])["n"] == 2


def training(folder, size, epochs, resume=None, strategy=None, shuffle=False, **options):
    """Work for :func:`processes.run`."""

    def work(runs):
        module = pipelined(dense(), **options)
        module.strategy = strategy or module.strategy
        rows = Rows()
        one = trainer(runs, [rows], folder, max_epochs=epochs)
        one.fit(module, noise(size=size, shuffle=shuffle), noise(size=size), ckpt_path=resume)
        return rows.rows, module

    return work


def cosine(optimizer):
    """Learning rates of numpy's type."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(step / 9)))


@pytest.mark.parametrize(
    ("strategy", "size"),  # epochs of five mini-batches, or shorter than the delay
    [
        pytest.param(make_strategy("ema-span"), 40, marks=slow),
        (StashFirst(then=make_strategy("ema-span"), updates=8), 16),
        pytest.param(make_strategy("latest"), 8, marks=slow),
    ],
)
def test_a_resumed_run_is_resumed(strategy, size, tmp_path):
    """From a shorter run's end, by other numbers of processes."""

    def train(world, name, epochs, resume=None):
        how = {"strategy": strategy, "scheduler": cosine, "scheduler_interval": "step"}
        return processes.run(in_process, world, training(tmp_path / name, size, epochs, resume, **how))

    whole = train(2, "whole", 7)
    train(2, "a", 3)  # ends with an empty pipeline
    train(3, "b", 5, tmp_path / "a" / "epoch=2.ckpt")
    found = train(1, "c", 7, tmp_path / "b" / "epoch=3.ckpt")
    assert found[0][0][-5:] == whole[0][0][-5:]
    assert_same_weights(found[0][1], merged(whole))


def test_a_loss_with_buffers_is_resumed(tmp_path):
    """They are those of the last process."""

    def train(world, name, epochs, resume=None):
        loss = Centred(always=False)
        work = training(tmp_path / name, 40, epochs, resume, loss=loss, delays=(5, 3, 1))
        return processes.run(in_process, world, work)

    whole = train(2, "whole", 4)
    train(2, "a", 2)
    found = train(3, "b", 4, tmp_path / "a" / "epoch=1.ckpt")
    assert found[0][0][-2:] == whole[0][0][-2:]
    one, other = found[-1][1], whole[-1][1]
    assert one["loss.centre"].abs().sum() > 0
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    saved = checkpoint.whole_state_dict(tmp_path / "b" / "epoch=3.ckpt")
    assert torch.equal(saved["loss.centre"], one["loss.centre"])


@pytest.mark.parametrize("drain", sampled([False, True], [False]))
@pytest.mark.parametrize("size", [40, 16])  # an epoch of five mini-batches, and one shorter than the delay
def test_a_resumed_run_goes_on_in_the_same_order(drain, size, tmp_path):
    def make(epoch):
        path = epoch and tmp_path / f"epoch={epoch}.ckpt"
        return training(tmp_path, size, 5, path, shuffle=True, drain=drain)

    resumed_equals_whole(make, 2, 2, last=5)


def told(folder, resume=None, limit=None, loader=noise, **options):
    """Work for :func:`processes.run`: what a resume says about the data, and the last losses."""

    def work(runs):
        module, rows, limits = pipelined(dense(), **options), Rows(), [] if limit is None else [StepLimit(limit)]
        one = trainer(runs, [rows, *limits], folder)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            one.fit(module, loader(), noise(), ckpt_path=resume)
        return (rows.rows[-1], [str(one.message) for one in said if "layerpipe2" in str(one.message)]), module

    return work


def by_epoch():
    return noise(sampler=DistributedSampler(noise().dataset, 1, 0))


@pytest.mark.parametrize(
    ("loader", "limit", "message"),
    [
        (noise, 8, "is of the middle of an epoch, after 3 mini-batches, and Lightning begins the next epoch; take"),
        (
            own_generator,
            None,
            "the order of the data comes from the loader's own generator or state, which begins anew",
        ),
        (by_epoch, None, None),
    ],
)
def test_the_data_go_on_or_a_line_says_that_they_do_not(loader, limit, message, tmp_path):
    (whole, _), _ = processes.run(in_process, 2, told(tmp_path / "whole", loader=loader))[0]
    processes.run(in_process, 2, told(tmp_path / "part", limit=limit, loader=loader))
    path = tmp_path / "part" / "epoch=1.ckpt"
    (resumed, said), _ = processes.run(in_process, 2, told(tmp_path / "part", path, loader=loader))[0]
    assert (resumed == whole) == (message is None)
    assert len(said) == (message is not None)
    assert all(message in line for line in said)
