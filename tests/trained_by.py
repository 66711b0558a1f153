"""A resumed training by the package of Lightning that is named: ``python -m tests.trained_by lightning FOLDER``.

Under ``layerpipe2 launch`` as a pipeline of several processes. What it trains to doesn't hang on the package.
"""

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PLACES = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def trained(package, folder, epochs, resume=None, several=False):
    """Train up to that epoch, with a data module and checkpoints; returns the module."""
    L = import_module(package)
    from layerpipe2 import PipelinedModule, PipelineStrategy

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
            data = TensorDataset(x, (x.sum(dim=1) > 0).long())
            return DataLoader(data, 8)

    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 6), nn.Linear(6, 2)]
    module = PipelinedModule(stages, "layerpipe2", "ema-lsq", optimizer=sgd, stage_seed=0)
    keep = import_module(f"{L.Trainer.__module__.partition('.trainer')[0]}.callbacks").ModelCheckpoint(
        folder, filename="{epoch}", save_top_k=-1, save_last=True, save_on_train_epoch_end=True
    )
    strategy = PipelineStrategy() if several else "auto"
    trainer = L.Trainer(max_epochs=epochs, strategy=strategy, callbacks=[keep], **PLACES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few workers and no validation, and of torch's pytree
        trainer.fit(module, datamodule=Data(), ckpt_path=resume)
    return module


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def weights(module):
    """As numbers in the order of the stages."""
    return [parameter.tolist() for parameter in module.parameters()]


if __name__ == "__main__":
    package, folder = sys.argv[1:]
    several = "RANK" in os.environ
    trained(package, folder, 2, several=several)
    again = trained(package, folder, 3, resume="last", several=several)
    assert ("pytorch_lightning" in sys.modules) == (package == "pytorch_lightning")
    torch.save(weights(again), Path(folder, f"weights-{os.environ.get('RANK', 0)}.pt"))
