"""Checkpoints: a resumed run is bit-equal to the uninterrupted one, from wherever it is resumed, or it is refused."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader, DistributedSampler

from layerpipe2 import Delays, UserError
from tests.engine.training import assert_bit_equal, checkpoint, data, fit, module, resume, resumes, trainer

pytestmark = [
    resumes,
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps"),
    pytest.mark.filterwarnings("ignore:The `ckpt_path` checkpoint was saved mid-epoch"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
EPOCHS, BATCHES = 4, 6
# When checkpoints are written: behind the last mini-batch, at the end of validation, at the epoch's end.
SAVED = {
    "last batch": {"every_n_train_steps": BATCHES},
    "validation": {"save_on_train_epoch_end": False},
    "epoch": {"save_on_train_epoch_end": True},
}


@pytest.mark.parametrize(
    ("strategy", "options", "saved"),
    [
        ("stash", {}, {}),
        ("pair", {}, {}),
        ("ema-lsq-raw", {"drain": True}, {}),
        ("ema-window", {"drain": True, "scheduler": None}, SAVED["last batch"]),
        ("latest", {"drain": True, "accumulate": 3}, {"every_n_train_steps": 2}),
        ("ema-span", {"accumulate": 3}, {"every_n_train_steps": 2}),
    ],
)
def test_resume_is_bit_equal_to_the_uninterrupted_run(strategy, options, saved, tmp_path):
    """Delays 6, 4, 2, 0; where three mini-batches make an update, Lightning takes two updates for half an epoch."""
    make = partial(module, strategy, stage_seed=3, **options)
    whole = fit(make(), EPOCHS)
    resumed = resume(checkpoint(tmp_path, make(), 2, **saved), make(), EPOCHS, **saved)
    assert_bit_equal(resumed.state_dict(), whole.state_dict())
    for mine, theirs in zip(resumed.engine.delayed.values(), whole.engine.delayed.values(), strict=True):
        assert torch.equal(mine.line, theirs.line)
        assert_bit_equal(mine.state, theirs.state)
    epochs = 1 if "drain" in options else EPOCHS
    assert int(whole.engine.step_count) == epochs * BATCHES // options.get("accumulate", 1)


@pytest.mark.parametrize(
    ("strategy", "others", "message"),
    [
        ("stash", [("stash", Delays.pipedream(4))], r"saved with {'delays': \[6, 4, 2, 0\]}, .* {'delays': \[3, 2, 1"),
        ("ema-window", [(s,) for s in ("stash", "latest", "ema-window-raw", "ema-span")], "resume with the same"),
    ],
)
def test_a_checkpoint_of_another_pipeline_is_refused(strategy, others, message, tmp_path):
    path = checkpoint(tmp_path, module(strategy), 1)
    for other in others:
        with pytest.raises(UserError, match=message):
            resume(path, module(*other), 2)


def test_a_checkpoint_that_is_only_tested_leaves_no_trace(tmp_path):
    fresh, tested = fit(module("ema-window"), 1), module("ema-window")
    initial = copy.deepcopy(tested.state_dict())
    path = checkpoint(tmp_path, module("ema-window"), 1)
    tester = trainer(1, callbacks=[ModelCheckpoint(tmp_path, save_last=True)])
    tester.test(tested, data(shuffle=False), ckpt_path=path, verbose=False)
    tested.load_state_dict(initial)
    fit(tested, 1)
    assert_bit_equal(tested.state_dict(), fresh.state_dict())
    assert int(tested.engine.step_count) == 6


def test_a_checkpoint_of_an_untrained_module_starts_as_one_without(tmp_path):
    """Weights can be validated and saved before training; what continues from there begins with an empty pipeline."""
    untrained, path = module("ema-window"), tmp_path / "initial.ckpt"
    one = trainer(1)
    one.validate(untrained, data(shuffle=False), verbose=False)
    one.save_checkpoint(path)
    assert_bit_equal(untrained.state_dict(), module("ema-window").state_dict())
    resumed = fit(module("ema-window"), 1, ckpt_path=path, enable_checkpointing=True, default_root_dir=tmp_path)
    assert int(resumed.engine.step_count) == int(fit(module("ema-window"), 1).engine.step_count) == 6


class Rates(pl.Callback):
    def __init__(self):
        self.rates = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates[trainer.global_step - 1] = trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize("where", SAVED)
def test_every_epoch_has_its_rate_after_a_resume(where, tmp_path):
    """A checkpoint may come from before the hooks of an epoch's end: the scheduler is stepped once all the same."""

    def run(path=None):
        rates = Rates()
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **SAVED[where])
        pipeline = module("ema-window", stage_seed=3)
        torch.manual_seed(0)
        trainer(EPOCHS, callbacks=[keep, rates]).fit(pipeline, data(False), data(False), ckpt_path=path)
        return rates.rates, pipeline.state_dict()

    rates, whole = run()
    assert sorted(set(rates.values()), reverse=True) == [0.05 / 2**epoch for epoch in range(EPOCHS)]
    again, resumed = run(tmp_path / f"step={2 * BATCHES}.ckpt")
    assert again == {step: rate for step, rate in rates.items() if step >= 2 * BATCHES}
    assert_bit_equal(whole, resumed)


def test_a_checkpoint_whose_weights_are_not_its_pipelines(tmp_path):
    model, path = module("ema-window"), tmp_path / "halved.ckpt"
    one = trainer(1)
    one.fit(model, data(), data(shuffle=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    one.save_checkpoint(path)
    with pytest.raises(UserError, match="stage 0: the checkpoint's weights are not those that its pipeline was at"):
        fit(module("ema-window"), 2, ckpt_path=path)


@pytest.mark.parametrize("first", ["nothing left to train", "refused"])
def test_a_checkpoint_that_was_not_used_leaves_no_trace(first, tmp_path):
    path, model = checkpoint(tmp_path, module("ema-window"), 1), module("ema-window")
    if first == "refused":
        with pytest.raises(UserError, match="doesn't work with a pipeline"):
            fit(model, 2, ckpt_path=path, callbacks=[StochasticWeightAveraging(0.1)], enable_checkpointing=False)
        model = module("ema-window")
        model.drain = "no"
        with pytest.raises(UserError, match="drain is 'no'"):
            fit(model, 2, ckpt_path=path)
        model.drain = False
    else:
        resume(path, model, 1)
    fresh = module("ema-window")
    fresh.load_state_dict(model.state_dict())
    assert_bit_equal(fit(model, 1).state_dict(), fit(fresh, 1).state_dict())
    assert int(model.engine.step_count) == 6


class Failing(pl.Callback):
    """Ends the first evaluation after its second mini-batch."""

    def __init__(self):
        self.failed = False

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1 and not self.failed:
            self.failed = True
            raise RuntimeError("interrupted")

    on_test_batch_end = on_validation_batch_end


@pytest.mark.parametrize("phase", ["validate", "test"])
def test_an_interrupted_evaluation_does_not_count(phase):
    model, failing = module("latest"), Failing()
    one = trainer(1, callbacks=[failing], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        getattr(one, phase)(model, data(shuffle=False), verbose=False)
    with torch.no_grad():
        next(model.parameters()).mul_(3)  # else the mini-batches before would not show
    again = getattr(one, phase)(model, data(shuffle=False), verbose=False)
    fresh = module("latest")
    fresh.load_state_dict(model.state_dict())
    assert again == getattr(trainer(1), phase)(fresh, data(shuffle=False), verbose=False)


def other(**options):
    made = module("ema-window", scheduler=None)
    for name, value in options.items():
        setattr(made, name, value)
    return made


def wider():
    made = other()
    made.stages[3][0][1] = torch.nn.Linear(4 * 64, 6)
    return made


def with_groups(*groups):
    """Adam with these of the parameters, by number, in groups; the first one has a number of its own."""

    def made(parameters):
        parameters = list(parameters)
        given = [{"params": [parameters[i] for i in group]} for group in groups]
        given[0]["number of its own"] = 1
        return torch.optim.Adam(given, lr=0.01)

    return partial(other, make_optimizer=made)


def scheduled(make, *options):
    return partial(other, make_scheduler=lambda optimizer: make(optimizer, *options))


def first_linear(then):
    """Two steps of warm-up."""
    return scheduled(lambda o: SequentialLR(o, [LinearLR(o), then(o, 0.5)], [2]))


def without(*names):
    """What a checkpoint lacks."""

    def change(content):
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return change


adam, one_cycle = partial(other, make_optimizer=torch.optim.Adam), scheduled(OneCycleLR, 0.1, 100)
one_group, two_groups = with_groups(range(14)), with_groups(range(4), range(4, 14))
RESUMED = {
    "other optimizer": (other, None, adam, "^the checkpoint is of SGD, .* trains with Adam; resume with the same"),
    "other one of an old checkpoint": (
        other,
        without("pipeline", "optimizer"),
        adam,
        "^the checkpoint is of an optimizer without betas, eps, and this one trains with Adam; resume with the same",
    ),
    "other groups": (
        one_group,
        None,
        two_groups,
        r"^the checkpoint is of parameter groups of \[14\] parameters, and this one has \[4, 10\]; resume with",
    ),
    "groups in another order": (
        with_groups([4], [8]),
        None,
        with_groups([8], [4]),  # weights of the same shape
        "^the checkpoint is of parameter groups of other parameters, or in another order",
    ),
    "other network": (
        other,
        None,
        wider,
        r"the weights are those of another network \(size mismatch for stages\.3\.0\.1\.weight: .*\); give",
    ),
    "weights alone": (
        other,
        without("optimizer_states"),
        other,
        "^the checkpoint has weights only, from which no run can be resumed",
    ),
    "other scheduler": (
        scheduled(ExponentialLR, 0.5),
        None,
        one_cycle,
        "^the checkpoint is of ExponentialLR, and this one has OneCycleLR; resume with the same",
    ),
    "other scheduler within one": (
        first_linear(ExponentialLR),
        None,
        first_linear(CosineAnnealingLR),
        r"^the checkpoint is of SequentialLR\(LinearLR, ExponentialLR\),",
    ),
    "a scheduler that sets the optimizer up": (
        other,
        None,
        one_cycle,
        "^the checkpoint is of an optimizer without max_lr, min_lr, ",
    ),
    "the same groups": (two_groups, None, two_groups, None),
    "the same schedulers within one": (first_linear(ExponentialLR), None, first_linear(ExponentialLR), None),
    "a scheduler where there was none": (other, None, scheduled(ExponentialLR, 0.5), None),
    "no scheduler where there was one": (one_cycle, None, other, None),
}


@pytest.mark.parametrize("row", RESUMED)
def test_a_run_that_is_another_is_refused_in_one_line(row, tmp_path):
    first, change, then, message = RESUMED[row]
    path = changed(checkpoint(tmp_path, first(), 1), change)
    if message is None:
        resume(path, then(), 2)
        return
    with pytest.raises(UserError, match=message) as found:
        resume(path, then(), 2)
    assert "\n" not in str(found.value)


def changed(path, change):
    if change is not None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
    return path


def test_weights_of_another_network_are_a_runtime_error_as_everywhere():
    with pytest.raises(RuntimeError, match="another network"):
        other().load_state_dict(wider().state_dict())


def test_a_checkpoint_without_a_pipeline_says_so(tmp_path):
    path = changed(checkpoint(tmp_path, other(), 1), without("pipeline"))
    with pytest.warns(UserWarning, match="has no state of a pipeline .* begins with an empty pipeline"):
        resume(path, other(), 2)


class Stateful:
    """Six mini-batches, in an order that follows from the epoch's number; keeps its place."""

    def __init__(self):
        self.source, self.epoch, self.done = data(shuffle=False).dataset, 0, 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        order = torch.randperm(48, generator=torch.Generator().manual_seed(self.epoch)).view(BATCHES, 8)
        for rows in order[self.done % BATCHES :]:
            self.done += 1
            self.epoch += self.done % BATCHES == 0
            yield self.source[rows]

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state):
        self.__dict__.update(state)


def shuffled(**options):
    return DataLoader(data().dataset, 8, **options)


def own_generator():
    return shuffled(shuffle=True, generator=torch.Generator().manual_seed(1))


def by_epoch(**options):
    return shuffled(sampler=DistributedSampler(data().dataset, 1, 0), **options)


MIDDLE = "of the middle of an epoch, after 2 mini-batches, and"
DATA = {
    "plain, at the end": (shuffled, {}, 6, None),
    "plain": (shuffled, {}, 8, f"{MIDDLE} the data loader begins anew; .* state_dict and load_state_dict$"),
    "stateful": (Stateful, {}, 8, None),
    "stateful, at the end": (Stateful, {}, 6, None),
    "a counted epoch": (Stateful, {"max_steps": 8}, 8, f"{MIDDLE} Lightning begins the next epoch"),
    "an order of its own, at the end": (own_generator, {}, 6, "comes from the loader's own generator .* begins anew;"),
    "the epoch's order, at the end": (by_epoch, {}, 6, None),
    "read by workers": (lambda: by_epoch(num_workers=1), {}, 6, "workers begin with the order of epoch 0; give num_w"),
}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("row", DATA)
def test_the_data_go_on_or_a_line_says_that_they_do_not(row, tmp_path):
    make, ends, step, message = DATA[row]
    every = {} if ends else {"every_n_train_steps": 1}

    def run(path=None, **options):
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **every)
        model = module("ema-window", stage_seed=3, scheduler=None)
        torch.manual_seed(0)
        trainer(3, callbacks=[keep], **options).fit(model, make(), ckpt_path=path)
        return model.state_dict()

    whole = run()
    if ends:
        run(**ends)
    told = nullcontext() if message is None else pytest.warns(UserWarning, match=message)
    with told:
        resumed = run(tmp_path / f"step={step}.ckpt")
    same = all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert same == (message is None)
