"""``layerpipe2 advise`` on the networks of the study."""

import argparse
import sys
from functools import partial

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import load


def run(options: argparse.Namespace) -> None:
    """Begin what ``layerpipe2 train`` would train, or a training of one's own, with each strategy.

    Raises:
        UserError: on bad settings or data, or a pipeline without delays.
    """
    if options.module is not None:
        from layerpipe2.cli import advise as own

        own.run(options)
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
