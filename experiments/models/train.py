"""Six updates of each strategy, by the simulation or as one of two processes, which must give the same bits.

The processes are those of ``layerpipe2 launch --processes 2 -- -m experiments.models.train NAME AT FOLDER``.
"""

import hashlib
import json
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from experiments.models.networks import MODELS
from layerpipe2 import PipelinedModule, PipelineStrategy, cut
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning

UPDATES = 6
STRATEGIES = ("latest", "ema-span", "stash")

Found = dict[str, dict[str, Any]]
"""Strategy -> loss, digests of this process's stages, memory per stage in bytes."""


def trained(name: str, at: list[str], strategies: tuple[str, ...] = STRATEGIES, *, processes: bool = False) -> Found:
    """Cut a network anew and train it, once with each strategy, at the delays 2S."""
    torch.set_num_threads(1)
    found, model = Found(), MODELS[name]
    for strategy in strategies:
        torch.manual_seed(0)
        stages = cut(model.make(), model.example(), at=at, **model.how)
        batches = [model.parts(seed) for seed in range(UPDATES)]
        names = tuple(batches[0])[:-1]
        module = PipelinedModule(
            stages,
            "layerpipe2",
            strategy,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
            inputs=names if len(names) > 1 else names[0],
            target="labels",
            stage_seed=0,
        )
        pipeline = PipelineStrategy() if processes else None
        with running_lightning(".*does not have many workers", ".*`val_dataloader`", ".*length of .* is zero"):
            trainer = quiet_trainer(1, torch.device("cpu"), [], pipeline, limits=(None, 0))
            trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        memory = [] if pipeline is None else pipeline.memory
        found[strategy] = {
            "loss": float(trainer.callback_metrics["train_loss"]),
            "digests": digests(module),
            "memory": [row.parameters + row.optimizer + row.activations + row.history for row in memory],
        }
    return found


def digests(module: PipelinedModule) -> dict[str, str]:
    """Number of a stage -> digest of its weights and buffers, of the stages that are here."""
    here = sorted(module.stages.state_dict().items())
    found = {}
    for number, items in groupby(here, key=lambda item: item[0].partition(".")[0]):
        digest = hashlib.sha256()
        for key, value in items:
            digest.update(key.encode() + value.numpy().tobytes())
        found[number] = digest.hexdigest()
    return found


if __name__ == "__main__":
    name, at, folder = sys.argv[1:]
    made = trained(name, json.loads(at), processes=True)
    (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(made))
