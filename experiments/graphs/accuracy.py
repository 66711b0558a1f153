"""Accuracy of graph networks on sampled neighbourhoods, trained with and without delays."""

from typing import Any

import pytorch_lightning as pl
import torch

from experiments.graphs.measure import GraphSettings
from layerpipe2 import PipelinedModule, partition
from layerpipe2.engine.quiet_trainer import running_lightning
from layerpipe2.graphs import SampledLoader
from layerpipe2.graphs.networks import GRAPH_NETWORKS, build
from layerpipe2.lab.graphs.data import GraphData

STRATEGIES = ("sequential", "stash", "latest", "ema-span")
"""Sequential training has one stage, the others one stage per layer and the delays of LayerPipe2."""


def accuracies(data: GraphData, settings: GraphSettings) -> list[dict[str, Any]]:
    """A row per network, strategy and seed: accuracy on the test nodes (fraction) after all epochs."""
    pl.utilities.disable_possible_user_warnings()
    return [
        {"network": row.label, "strategy": strategy, "seed": seed, **_train(data, settings, row.name, strategy, seed)}
        for row in GRAPH_NETWORKS.values()
        for strategy in STRATEGIES
        for seed in range(settings.seeds)
    ]


def _train(data: GraphData, settings: GraphSettings, network: str, strategy: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    units = build(network, data.graph, settings.fan_out, width=settings.width)
    stages = partition(units, len(units) if strategy == "sequential" else 1)
    law, history = ("none", "stash") if strategy == "sequential" else ("layerpipe2", strategy)
    module = PipelinedModule(
        stages, law, history, optimizer=lambda p: torch.optim.AdamW(p, lr=settings.lr), stage_seed=seed
    )

    def loader(nodes: Any, shuffle: bool) -> SampledLoader:
        return SampledLoader(data.graph, nodes, settings.fan_out, settings.batch_size, shuffle=shuffle, seed=seed)

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=settings.epochs, enable_model_summary=False, limit_val_batches=0, **quiet)
    with running_lightning():
        trainer.fit(module, loader(data.train, True))
        found = trainer.test(module, loader(data.test, False), verbose=False)[0]
    return {"accuracy": float(found["test_accuracy"]), "loss": float(found["test_loss"])}
