"""The same training as a real pipeline: two processes that work on different mini-batches at the same time.

Run: layerpipe2 launch --processes 2 -- examples/two_processes.py
or:  torchrun --nproc-per-node 2 examples/two_processes.py
or:  python examples/two_processes.py      the simulation in one process, which prints the same numbers

Every process computes with one thread, whoever starts it: more may round sums otherwise.
"""

import os

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import Delays, PipelinedModule, PipelineStrategy, make_strategy, partition

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def main(epochs: int = 8) -> None:
    """Train; the first process prints the metrics, which all processes hold."""
    torch.set_num_threads(1)  # as a launcher's processes have; more may round sums otherwise
    torch.manual_seed(0)
    images, classes = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes))
    order = torch.Generator().manual_seed(1)  # of its own, so that the order depends on nothing else
    units = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1)) for _ in range(3)] + [nn.Linear(64, 10)]
    module = PipelinedModule(
        partition(units, 1),
        Delays.layerpipe2(4),
        make_strategy("ema-span"),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.5),
        stage_seed=0,  # each stage draws its own dropout, as processes must
    )
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", strategy=PipelineStrategy() if several else "auto", **QUIET
    )
    trainer.fit(module, DataLoader(data, 32, shuffle=True, generator=order), DataLoader(data, 256))
    if int(os.environ.get("RANK", "0")) == 0:
        for name in ("train_loss", "val_loss", "val_accuracy"):
            print(f"{name:12} {trainer.callback_metrics[name].item():.9f}")


if __name__ == "__main__":
    main()
