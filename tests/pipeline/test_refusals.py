"""What can't be trained by several processes is refused by all of them, saying what to change."""

import os
from functools import partial
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
from layerpipe2.pipeline.strategy import PipelineStrategy
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
        self.layer = nn.Linear(12, 4)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Clipping(pl.Callback):
    def on_after_backward(self, trainer, pl_module):
        nn.utils.clip_grad_norm_(pl_module.parameters(), 1.0)


class Scaling(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        next(pl_module.parameters()).data.mul_(0.5)


class Assigning(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        parameter = next(pl_module.parameters())
        parameter.data = parameter.data.clone()


class Replacing(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        for layer in pl_module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight = nn.Parameter(layer.weight.detach().clone())


class Adding(pl.Callback):
    """As BaseFinetuning does where the optimizer was given a part of the parameters."""

    def on_train_epoch_start(self, trainer, pl_module):
        new = nn.Parameter(torch.zeros(1))
        for optimizer in trainer.optimizers:
            optimizer.add_param_group({"params": [new]})


def fit(make=lambda: pipelined(dense()), data=noise, validation=None, **options):
    one = trainer(PipelineStrategy(timeout_s=20), **options)
    one.fit(make(), data(), (validation or data)())
    return one


class Longer(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        trainer.fit_loop.max_epochs = 4


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


class Setting(pl.Callback):
    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_train_batch_end(self, trainer, pl_module, *_):
        setattr(pl_module, self.name, self.value)


class FirstRate(pl.Callback):
    """As is right in one process, which has one optimizer."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.01


class Weighing(torch.optim.lr_scheduler.LRScheduler):
    """Its rate depends on the weights that it finds."""

    def get_lr(self):
        size = sum(p.detach().norm().item() for group in self.optimizer.param_groups for p in group["params"])
        return [0.1 / size for _ in self.optimizer.param_groups]


class Exchanging(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.optimizers = [torch.optim.SGD(pl_module.parameters(), lr=0.01)]


def looks_at_batches(look):
    return pl.callbacks.LambdaCallback(on_train_batch_start=lambda trainer, module, batch, _: look(batch))


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


def cast():
    with torch.autocast("cpu", torch.bfloat16):
        fit(lambda: pipelined(dense(), "stash"))


def plateau():
    return pipelined(dense(), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def call():
    fit(max_epochs=1).lightning_module(torch.zeros(1, 12))


def two_clippings():
    in_process(Case(clip=0.5 if os.environ["RANK"] == "1" else None))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (partial(fit, plateau), "ReduceLROnPlateau waits for a metric"),
        (partial(fit, Plain), "PipelineStrategy trains a PipelinedModule, not a Plain"),
        (partial(fit, data=lambda: DataLoader(Endless(), 8)), "a DataLoader without a length can't feed"),
        (
            partial(fit, validation=lambda: DataLoader([{"x": torch.zeros(12), "y": 1}])),
            "mini-batch is a dict; a pipeline takes a pair (inputs, targets) of two tensors",
        ),
        (partial(fit, reload_dataloaders_every_n_epochs=1), "reads ahead into the next epoch"),
        (partial(fit, val_check_interval=2, enable_checkpointing=True), "save_on_train_epoch"),
        (partial(fit, callbacks=[Clipping()]), "Clipping has on_after_backward, but the processes of a pipeline never"),
        (
            partial(fit, callbacks=[EMAWeightAveraging()]),
            "EMAWeightAveraging doesn't work with a pipeline: it averages the whole network",
        ),
        (partial(fit, callbacks=[Scaling()]), "weights were changed between two updates (a callback that clamps"),
        (partial(fit, callbacks=[Assigning()]), "weights were changed between two updates (a callback that clamps"),
        (partial(fit, callbacks=[Replacing()]), "a parameter or layer was added, replaced or removed"),
        (partial(fit, callbacks=[Adding()]), "was given parameters of another stage, which has its own"),
        (partial(fit, callbacks=[Longer()]), "training goes on behind mini-batch 15, which was to be the last one"),
        (partial(fit, borrowed), "stage 2 computes with a weight of stage 0 that doesn't come by its input"),
        (partial(fit, left), "stage 1 computes with a value of stage 0 that doesn't come by its input"),
        *(
            (partial(fit, callbacks=[Setting(name, value)]), f"{name} was changed while training (by a callback?)")
            for name, value in (("gradient_clip_norm", 0.1), ("drain", True), ("loss", F.mse_loss))
        ),
        (partial(fit, callbacks=[FirstRate()]), "the learning rate of group 0 is 0.01 in stage"),
        *(
            (partial(fit, partial(two_stages, scheduler=Weighing, scheduler_interval=interval)), "by a scheduler that")
            for interval in ("step", "epoch")
        ),
        (partial(fit, callbacks=[Exchanging()]), "trainer.optimizers was replaced while training (by a callback?)"),
        *(
            (
                partial(fit, callbacks=[looks_at_batches(look)]),
                "a callback or hook looks into a mini-batch, but several",
            )
            for look in (
                lambda batch: batch[0].mul_(2),
                lambda batch: batch.__setitem__(0, None),
                lambda batch: [*batch],
            )
        ),
        *(
            (partial(fit, **data), "a DataLoader of length 8 has given 5 mini-batches only, but several processes")
            for short in [lambda: DataLoader(Short(), 8)]
            for data in ({"data": short, "validation": noise}, {"validation": short})
        ),
        (
            given(loss=noisy_loss),
            "the loss draws random numbers from torch's default generator, from which a DataLoader",
        ),
        (given(optimizer=lambda p: Sharpness(p, lr=0.1)), "Sharpness evaluates the network again within an update"),
        (given(optimizer=lambda p: torch.optim.SGD(p, 0.1, differentiable=True)), "SGD(differentiable=True) would"),
        (cast, "fit() is called within torch.autocast, which keeps"),
        (call, "has some of the stages only; call the Trainer's predict"),
        (
            partial(in_process, Case(), stages_per_process=[1, 2]),
            "stages_per_process is [1, 2]; give 2 numbers that add up to 4",
        ),
        (partial(in_process, Case(delays=(0, 2, 0, 0))), "delays [0, 2, 0, 0] grow towards the output"),
        (partial(in_process, Case(options={"precision": "bf16-mixed"})), "computes in the parameters' own type"),
        (two_clippings, "rank 1 differs from rank 0 in drain, clipping, seed of the stages: False, 0.5, 7 against"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(work, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = processes.ends(work, 2, tmp_path)
    assert [code for code, _ in found] == [2, 2]
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
