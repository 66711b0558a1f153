"""A resumed run continues bit for bit, with any number of processes; no checkpoint runs code, and damage is told."""

import os
import shutil
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from experiments.field.prediction import SpecTrain
from layerpipe2 import UserError, make_strategy
from layerpipe2.engine.execution import StepLimit
from layerpipe2.pipeline import checkpoint
from layerpipe2.pipeline.checkpoint import whole_state_dict
from layerpipe2.strategies import StashFirst
from tests.bombs import explodes, mine
from tests.pipeline import processes
from tests.pipeline.fits import (
    ByGloo,
    Case,
    Rows,
    assert_same_weights,
    dense,
    fit,
    images,
    in_process,
    loaders,
    merged,
    noise,
    pipelined,
    resumed_equals_whole,
    trainer,
)
from tests.pipeline.test_changes_under_way import Centred, Unfreeze
from tests.pipeline.test_equality import accumulated
from tests.pipeline.test_stage_optimizers import faster_head, two_rates
from tests.pipeline.test_training import own_generator
from tests.sampling import sampled, slow

STAGES = [f"stage-{k:03d}.pt" for k in range(4)]
FILES = ["common.pt", *STAGES]
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
    resumed_equals_whole(tmp_path, partial(replace, case), before, after)


def by_fit(strategy="ema-window", **how):
    """How a dense network is trained: settings of the module, and of the training by their names."""
    training = {name: how.pop(name) for name in ("data", "validation", "callbacks", "max_epochs") if name in how}
    return partial(fit, lambda: pipelined(dense(), strategy, **how), **training)


def shuffled(size, **how):
    return by_fit(
        data=partial(noise, size=size, shuffle=True), validation=partial(noise, size=size), max_epochs=5, **how
    )


RESUMED = {
    "computed again": (partial(replace, Case("stash")), {"recompute_activations": True}),
    "saved by gloo": (partial(replace, Case()), {"saved": {"strategy": ByGloo}, "after": 2}),
    "accumulated": (accumulated("ema-span", 3, (7, 3, 0)), {"after": 3, "last": 3}),
    "groups": (by_fit(optimizer=faster_head, scheduler=two_rates), {"before": 3, "after": 2, "epoch": 0}),
    "frozen": (by_fit(callbacks=lambda: [Unfreeze()], max_epochs=4), {"after": 2, "epoch": 2}),
    "shuffled": (shuffled(40), {"after": 2, "last": 5}),
    "an epoch shorter than the delay": (shuffled(16), {"after": 2, "last": 5}),
}
SLOW = {
    "stash, accumulated": (accumulated("stash", 3, (7, 3, 0)), {"after": 2, "last": 3}),
    "prediction, accumulated": (accumulated(SpecTrain(), 3, (7, 3, 0)), {"after": 1, "last": 3}),
    "drained": (shuffled(40, drain=True), {"after": 2, "last": 5}),
    "drained, a short epoch": (shuffled(16, drain=True), {"after": 2, "last": 5}),
}


@pytest.mark.parametrize("name", sampled([*RESUMED, *SLOW], [*RESUMED]))
def test_what_is_resumed(name, tmp_path):
    work, how = (RESUMED | SLOW)[name]
    resumed_equals_whole(tmp_path, work, **how)


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
        how = {"scheduler": cosine, "scheduler_interval": "step", "data": partial(noise, size=size)}
        work = by_fit(strategy, max_epochs=epochs, **how)
        return processes.run(in_process, world, work(folder=tmp_path / name, resume=resume))

    whole = train(2, "whole", 7)
    train(2, "a", 3)  # ends with an empty pipeline
    train(3, "b", 5, tmp_path / "a" / "epoch=2.ckpt")
    found = train(1, "c", 7, tmp_path / "b" / "epoch=3.ckpt")
    assert found[0][0][-5:] == whole[0][0][-5:]
    assert_same_weights(found[0][1], merged(whole))


def test_a_loss_with_buffers_is_resumed(tmp_path):
    """They are those of the last process."""

    def train(world, name, epochs, resume=None):
        work = by_fit(loss=Centred(always=False), delays=(5, 3, 1), max_epochs=epochs)
        return processes.run(in_process, world, work(folder=tmp_path / name, resume=resume))

    whole = train(2, "whole", 4)
    train(2, "a", 2)
    found = train(3, "b", 4, tmp_path / "a" / "epoch=1.ckpt")
    assert found[0][0][-2:] == whole[0][0][-2:]
    one, other = found[-1][1], whole[-1][1]
    assert one["loss.centre"].abs().sum() > 0
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    saved = checkpoint.whole_state_dict(tmp_path / "b" / "epoch=3.ckpt")
    assert torch.equal(saved["loss.centre"], one["loss.centre"])


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of two epochs of four stages."""
    folder = tmp_path_factory.mktemp("saved")
    processes.run(in_process, 2, Case("ema-window", folder=folder, epochs=2))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The second of them, in a place of its own."""
    return shutil.copytree(saved / "epoch=1.ckpt", tmp_path / "copied" / "epoch=1.ckpt")


@pytest.mark.parametrize("kind", ["added", "alone"])
@pytest.mark.parametrize("file", FILES)
def test_no_file_runs_code(file, kind, folder, tmp_path):
    mine(folder / file, tmp_path / "crater", kind)
    assert explodes(folder / file, tmp_path / "crater")
    with pytest.raises(UserError, match=rf"{file} (names code \(posix\.mkdir\), and none of it was run|is damaged)"):
        whole_state_dict(folder)
    assert not (tmp_path / "crater").exists()


def resumed(folder):
    in_process(Case("ema-window", resume=folder), timeout_s=20)


def evaluated(folder):
    def work(strategy):
        one = trainer(strategy, max_epochs=1)
        return one.test(pipelined(images(), stage_seed=7), loaders()[1], ckpt_path=folder), None

    in_process(work, timeout_s=20)


# Lightning wants the callbacks of the training also where it tests.
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
@pytest.mark.parametrize(("work", "file"), [(resumed, FILES[0]), (resumed, FILES[3]), (evaluated, FILES[1])])
def test_a_bomb_ends_all_processes_with_one_line(work, file, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")  # as under a launcher, which shows what all say
    mine(folder / file, tmp_path / "crater")
    found = processes.ends(work, 2, tmp_path, folder)
    assert [code for code, _ in found] == [2, 2]
    said = "".join(text for _, text in found)
    assert len([line for line in said.splitlines() if f"{file} names code (posix.mkdir)" in line]) == 1, found
    assert "Traceback" not in said
    assert not (tmp_path / "crater").exists()


def flip(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[content.index(b"\x80\x02}") + 20] ^= 16  # within the first member
    (folder / file).write_bytes(content)


def exchange(folder):
    for old, new in ((FILES[1], "other"), (FILES[2], FILES[1]), ("other", FILES[2])):
        os.rename(folder / old, folder / new)


def unmark(folder):
    for file in FILES:
        content = torch.load(folder / file, weights_only=True)
        del content["save"]
        torch.save(content, folder / file)


DAMAGED = r"{} is damaged \(archive/data.*\); delete it and start without resuming"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((partial(flip, file=file), DAMAGED.format(file)) for file in FILES),
        (exchange, r"is a mixture \(stage-000\.pt doesn't belong there\)"),
        (lambda f: shutil.copy(f / FILES[3], f / FILES[0]), r"is a mixture \(common\.pt is the file of a stage\)"),
        (lambda folder: (folder / FILES[-1]).unlink(), r"has no stage \d; resume with as many stages"),
        (unmark, r"epoch=1\.ckpt lacks what this version saves; delete it and start without"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(damage, message, folder):
    damage(folder)
    with pytest.raises(UserError, match=message):
        whole_state_dict(folder)


def test_files_of_two_saves_are_told_apart_and_an_intact_checkpoint_is_named(saved, folder):
    older = shutil.copytree(saved / "epoch=0.ckpt", folder.parent / "epoch=0.ckpt")
    shutil.copy(older / FILES[2], folder)
    with pytest.raises(UserError) as refused:
        whole_state_dict(folder)
    mixture = f"checkpoint {folder} is a mixture ({FILES[2]} doesn't belong there)"
    assert str(refused.value) == f"{mixture}; take {older}, which is intact, in its place"


def test_the_weights_of_a_save_that_was_killed_can_be_read(folder):
    expected = whole_state_dict(folder)
    os.rename(folder, folder.with_name(".epoch=1.ckpt.old"))
    assert_same_weights(whole_state_dict(folder), expected)
