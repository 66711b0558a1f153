"""What can't be trained by several processes is refused by all of them, saying what to change."""

import os
import time
from functools import partial
from textwrap import dedent
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from layerpipe2 import Delays, UserError
from layerpipe2.pipeline.process_group import ProcessGroup
from layerpipe2.pipeline.strategy import AS_PIPELINE, PipelineStrategy
from layerpipe2.pipeline.training_settings import check_trainer
from tests.pipeline import processes
from tests.pipeline.fits import Case, dense, in_process, noise, pipelined, stage_alone, trainer


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(12), torch.tensor(1)


class Short(IterableDataset):
    """Has less than its length says."""

    def __len__(self):
        return 64

    def __iter__(self):
        yield from ((torch.randn(12), torch.tensor(1)) for _ in range(40))


class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.first(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Clipping(pl.Callback):
    def on_after_backward(self, trainer, pl_module):
        nn.utils.clip_grad_norm_(pl_module.parameters(), 1.0)


def on(hook, act):
    """A callback that does ``act(trainer, module, ...)``."""
    return [pl.callbacks.LambdaCallback(**{f"on_train_{hook}": act})]


def scaled():
    return on("epoch_end", lambda trainer, module: next(module.parameters()).data.mul_(0.5))


def assigned(trainer, module, *_):
    parameter = next(module.parameters())
    parameter.data = parameter.data.clone()


def replaced(trainer, module):
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().clone())


def added(trainer, module):
    """As BaseFinetuning does where the optimizer was given a part of the parameters."""
    new = nn.Parameter(torch.zeros(1))
    for optimizer in trainer.optimizers:
        optimizer.add_param_group({"params": [new]})


def set_to(name, value):
    return on("batch_end", lambda trainer, module, *_: setattr(module, name, value))


def first_rate(trainer, module, *_):
    """As is right in one process, which has one optimizer."""
    trainer.optimizers[0].param_groups[0]["lr"] = 0.01


def exchanged(trainer, module, *_):
    trainer.optimizers = [torch.optim.SGD(module.parameters(), lr=0.01)]


def fit(make=lambda: pipelined(dense()), data=noise, validation=None, **options):
    one = trainer(PipelineStrategy(timeout_s=20), **options)
    one.fit(make(), data(), (validation or data)())
    return one


class Borrowing(nn.Linear):
    """Keeps a layer of another stage in a list."""

    def forward(self, x):
        return super().forward(x) + self.kept[0](x)


class Leaving(nn.Linear):
    """Leaves its outputs for a layer of another stage."""

    def forward(self, x):
        y = super().forward(x)
        self.box["value"] = y.detach()
        return y


class Taking(nn.Linear):
    def forward(self, x):
        return super().forward(x) + self.box.get("value", 0)


def borrowed():
    stages = [nn.Linear(12, 12), nn.Linear(12, 12), Borrowing(12, 12), nn.Linear(12, 4)]
    stages[2].kept = [stages[0]]
    return pipelined(stages)


def left():
    stages = [Leaving(12, 12), Taking(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)]
    stages[0].box = stages[1].box = {}
    return pipelined(stages)


class Weighing(torch.optim.lr_scheduler.LRScheduler):
    """Its rate depends on the weights that it finds."""

    def get_lr(self):
        size = sum(p.detach().norm().item() for group in self.optimizer.param_groups for p in group["params"])
        return [0.1 / size for _ in self.optimizer.param_groups]


def noisy_loss(outputs, targets):
    return F.cross_entropy(outputs + 0.1 * torch.randn(outputs.shape), targets)


def two_stages(**options):
    return pipelined([nn.Linear(12, 12), nn.Linear(12, 4)], **options)


class Sharpness(torch.optim.SGD):
    """Drops the gradients and would have new ones."""

    def step(self, closure=None):
        if closure is not None:
            self.zero_grad()
            super().step(closure)


def given(**options):
    return partial(fit, lambda: pipelined(dense(), **options))


def looks(look):
    return partial(fit, callbacks=on("batch_start", lambda trainer, module, batch, _: look(batch)))


def with_callback(hook, act):
    return partial(fit, callbacks=on(hook, act))


def short():
    return DataLoader(Short(), 8)


def cast():
    with torch.autocast("cpu", torch.bfloat16):
        fit(lambda: pipelined(dense(), "stash"))


def plateau():
    return pipelined(dense(), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def call():
    fit(max_epochs=1).lightning_module(torch.zeros(1, 12))


def two_clippings():
    in_process(Case(clip=0.5 if os.environ["RANK"] == "1" else None))


def slow_to_tell():
    """The other rank, with the store, has all the time to be gone before this one's watchdog knows why."""
    patch = pytest.MonkeyPatch()
    if os.environ["RANK"] == "1":
        fail = ProcessGroup.fail
        patch.setattr(ProcessGroup, "fail", lambda group, error: time.sleep(1.5) or fail(group, error))
    two_clippings()


DICTS = {"validation": lambda: DataLoader([{"x": torch.zeros(12), "y": 1}])}
CHANGED = "weights were changed between two updates (a callback that clamps"
WHILE_TRAINING = "was changed while training (by a callback?)"
LOOKS = "a callback or hook looks into a mini-batch, but several"
CLIPPINGS = "rank 1 differs from rank 0 in drain, clipping, seed of the stages: False, 0.5, 7 against"
SHORTER = "a DataLoader of length 8 has given 5 mini-batches only, but several processes"
NOISY = "the loss draws random numbers from torch's default generator, from which a DataLoader"
BY_ONE = [
    (partial(fit, plateau), "ReduceLROnPlateau waits for a metric"),
    (partial(fit, Plain), "PipelineStrategy trains a PipelinedModule, not a Plain; these lines train its layers"),
    (partial(fit, data=lambda: DataLoader(Endless(), 8)), "a DataLoader without a length can't feed"),
    (
        partial(fit, data=lambda: [noise(), noise()], validation=noise),
        "a pipeline of several processes takes one data",
    ),
    (partial(fit, **DICTS), "mini-batch is a dict; a pipeline takes a pair (inputs, targets) of two tensors"),
    (partial(fit, reload_dataloaders_every_n_epochs=1), "reads ahead into the next epoch"),
    (partial(fit, val_check_interval=2, enable_checkpointing=True), "save_on_train_epoch"),
    (partial(fit, callbacks=[Clipping()]), "Clipping has on_after_backward, but the processes of a pipeline never"),
    (
        partial(fit, callbacks=[EMAWeightAveraging()]),
        "EMAWeightAveraging doesn't work with a pipeline: it averages",
    ),
    (partial(fit, callbacks=scaled()), CHANGED),
    (with_callback("batch_end", assigned), CHANGED),
    (with_callback("epoch_end", replaced), "a parameter or layer was added, replaced or removed"),
    (with_callback("epoch_start", added), "was given parameters of another stage, which has its own"),
    (
        with_callback("epoch_start", lambda trainer, _: setattr(trainer.fit_loop, "max_epochs", 4)),
        "training goes on behind mini-batch 15, which was to be the last one",
    ),
    (partial(fit, borrowed), "stage 2 computes with a weight of stage 0 that doesn't come by its input"),
    (partial(fit, left), "stage 1 computes with a value of stage 0 that doesn't come by its input"),
    (partial(fit, callbacks=set_to("gradient_clip_norm", 0.1)), f"gradient_clip_norm {WHILE_TRAINING}"),
    (partial(fit, callbacks=set_to("drain", True)), f"drain {WHILE_TRAINING}"),
    (partial(fit, callbacks=set_to("loss", F.mse_loss)), f"loss {WHILE_TRAINING}"),
    (with_callback("batch_start", first_rate), "the learning rate of group 0 is 0.01 in stage"),
    *(
        (partial(fit, partial(two_stages, scheduler=Weighing, scheduler_interval=interval)), "by a scheduler that")
        for interval in ("step", "epoch")
    ),
    (with_callback("batch_start", exchanged), "trainer.optimizers was replaced while training (by a callback?)"),
    (looks(lambda batch: batch[0].mul_(2)), LOOKS),
    (looks(lambda batch: batch.__setitem__(0, None)), LOOKS),
    (looks(lambda batch: [*batch]), LOOKS),
    (partial(fit, data=short, validation=noise), SHORTER),
    (partial(fit, validation=short), SHORTER),
    (given(loss=noisy_loss), NOISY),
    (given(optimizer=lambda p: Sharpness(p, lr=0.1)), "Sharpness evaluates the network again within an update"),
    (given(optimizer=lambda p: torch.optim.SGD(p, 0.1, differentiable=True)), "SGD(differentiable=True) would"),
    (cast, "fit() is called within torch.autocast, which keeps"),
    (partial(in_process, Case(delays=(0, 2, 0, 0))), "delays [0, 2, 0, 0] grow towards the output"),
    (partial(in_process, Case(options={"precision": "bf16-mixed"})), "computes in the parameters' own type"),
]
BY_TWO = [
    (partial(fit, plateau), "ReduceLROnPlateau waits for a metric"),
    (partial(fit, callbacks=scaled()), CHANGED),
    (partial(fit, left), "stage 1 computes with a value of stage 0 that doesn't come by its input"),
    (call, "has some of the stages only; call the Trainer's predict"),
    (partial(in_process, Case(), stages_per_process=[1, 2]), "[1, 2]; give 2 numbers that add up to 4"),
    (two_clippings, CLIPPINGS),
    (slow_to_tell, CLIPPINGS),
    (partial(in_process, Case(), recompute_activations=True), "give strategy 'stash'"),
]


@pytest.mark.parametrize(("world", "work", "message"), [(1, *row) for row in BY_ONE] + [(2, *row) for row in BY_TWO])
def test_every_process_refuses(world, work, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = processes.ends(work, world, tmp_path)
    assert [code for code, _ in found] == [2] * world
    assert all(message in said for _, said in found), found


def test_more_processes_than_stages():
    with pytest.raises(AssertionError, match="4 stages for 5 processes; start at most one process per stage"):
        processes.run(in_process, 5, Case())


def test_a_way_that_begins_late_is_found_by_the_next_audit():
    class Late(nn.Linear):
        scale = 1.0

        def forward(self, x):
            return F.linear(x, self.weight if self.scale == 1 else self.scale * self.weight, self.bias)

    layer = Late(8, 8)
    stage = stage_alone(layer, 1, 2, "latest", torch.optim.SGD(layer.parameters(), lr=0.1))
    for _ in range(3):
        stage.forward(torch.ones(4, 8))
    layer.scale = 0.5
    stage.forward(torch.ones(4, 8))  # not audited
    stage.audit_next()
    with pytest.raises(UserError, match="stage 1 saves a tensor made from its weights"):
        stage.forward(torch.ones(4, 8))


def test_an_accelerator_that_is_neither_a_cpu_nor_nvidias_is_refused():
    trainer = SimpleNamespace(accelerator=MPSAccelerator())
    with pytest.raises(UserError, match=r"runs on CPUs or NVIDIA GPUs; give the Trainer accelerator='cpu'$"):
        check_trainer(SimpleNamespace(trainer=trainer, delays=Delays.layerpipe2(2)))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_five_lines_train_the_layers_of_a_plain_module():
    plain = Plain()
    before = [parameter.clone() for parameter in plain.parameters()]
    lines = dedent(AS_PIPELINE.partition("\n")[2])
    exec(lines, {"torch": torch, "module": plain, "loader": noise(), "trainer": trainer("auto")})
    assert lines.count("\n") == 4
    assert not any(old.equal(new) for old, new in zip(before, plain.parameters(), strict=True))
