"""Advice on a run of the study, see :mod:`layerpipe2.advice`."""

from collections.abc import Sequence

import torch

from layerpipe2.advice import STEPS, Advice, advise_module
from layerpipe2.advice.side_by_side import Progress
from layerpipe2.engine.device import resolve_device
from layerpipe2.errors import UserError
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.train import make_module
from layerpipe2.lightning import pl


def advise(
    config: RunConfig,
    *,
    steps: int = STEPS,
    data: Data | None = None,
    strategies: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Advice on the training that these settings describe; their strategy only adds to those that train.

    Args:
        config: the settings.
        steps, strategies, progress: as in :func:`layerpipe2.advice.advise_module`.
        data: the data set if it is already in memory; by default it is loaded by name.

    Raises:
        UserError: as there.
    """
    if config.strategy == "sequential":
        raise UserError("strategy is 'sequential', one stage without delay: there is no history to drop; leave it out")
    torch.set_num_threads(config.threads)
    data = data or load(config.dataset, config.data_root)
    with pl.utilities.seed.isolate_rng():
        pl.seed_everything(config.seed, verbose=False)
        plan = make_plan(config, data.input_shape, data.num_classes)
        loader = make_loaders(config, data, resolve_device(config.device))["train"]
        return advise_module(
            make_module(plan.warmed_up(len(loader)), len(loader)),
            loader,
            steps=min(steps, config.epochs * len(loader), config.max_steps or steps),
            strategies=strategies,
            device=config.device,
            progress=progress,
        )
