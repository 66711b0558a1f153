"""The batches that a run reads."""

from __future__ import annotations

from typing import Any

import torch

from layerpipe2.data import BatchLoader, Data, split
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig

Loaders = dict[str, BatchLoader]

_EVALUATION_BATCH = 512


def make_loaders(config: RunConfig, data: Data, device: torch.device) -> Loaders:
    """Loaders ``train`` (shuffled, whole batches only), ``validation`` and ``test``, all in memory on ``device``.

    Raises:
        UserError: if the training part doesn't fill one batch.
    """
    parts = split(data, config.validation_fraction, config.seed)
    if len(parts.train.y) < config.batch_size:
        raise UserError(f"batch_size is {config.batch_size}; give at most {len(parts.train.y)}, the training images")
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "seed": config.seed, "device": device}
    common["dtype"] = torch.float64 if config.precision == "float64" else torch.float32
    train = BatchLoader(parts.train, config.batch_size, shuffle=True, augment=config.augment, drop_last=True, **common)
    rest = {"validation": parts.validation, "test": parts.test}
    return {"train": train} | {name: BatchLoader(part, _EVALUATION_BATCH, **common) for name, part in rest.items()}
