"""``layerpipe2 advise`` on the networks of the study, and on one of one's own by the settings of a run."""

import argparse
import sys
from functools import partial

from layerpipe2.cli.own import refuse_settings
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import load
from layerpipe2.lab.own import SETTINGS


def run(options: argparse.Namespace) -> None:
    """Begin what ``layerpipe2 train`` would train, or a training of one's own, with each strategy.

    Raises:
        UserError: on bad settings or data, or a pipeline without delays.
    """
    if options.module is not None:
        _own(options)
        return
    keep_freed_memory()
    config = read_run(options)
    announce = partial(print, file=sys.stderr)
    data = load(config.dataset, config.data_root, download=options.download, announce=announce)
    from layerpipe2.cli.advise import Bar, show  # takes seconds
    from layerpipe2.lab.advice import advise

    bar = Bar()
    advice = advise(config, steps=options.steps, data=data, strategies=options.strategies, progress=bar)
    bar.close()
    title = f"{config.network} on {config.dataset}, {config.optimizer}, learning rate {config.lr:g}"
    show(advice, title, as_json=options.json)


def _own(options: argparse.Namespace) -> None:
    from layerpipe2.cli.advise import advise_pipeline  # takes seconds
    from layerpipe2.lab.own.training import OwnRun, called

    keep_freed_memory()
    config = read_run(options)
    own = called(options.module, config)
    if own.pipeline is not None:
        refuse_settings(options, SETTINGS | {"stages"})
        advise_pipeline(options, options.module, own.pipeline, own.train)
        return
    run = OwnRun.made(options.module, own, config, options.stages)
    options.steps = min(options.steps, config.epochs * run.steps_per_epoch, config.max_steps or options.steps)
    title = f"{options.module}, {len(run.stages)} stages, {config.optimizer}, learning rate {config.lr:g}"
    advise_pipeline(options, title, run.module(), own.train, config.device)
