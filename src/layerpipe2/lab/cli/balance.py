"""``layerpipe2 balance`` on the networks of the study."""

import argparse

import torch

from layerpipe2.cli import balance as own
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.device import resolve_device
from layerpipe2.lab import networks
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import describe
from layerpipe2.lab.runs.plan import check_run, make_units, optimizer_factory
from layerpipe2.strategies import make_strategy


def run(options: argparse.Namespace) -> None:
    """Balance what ``layerpipe2 train`` would train, on made-up data of its shape, or a training of one's own.

    Raises:
        UserError: on bad settings.
    """
    if options.module is not None:
        own.run(options)
        return
    config = read_run(options)
    spec, device = describe(config.dataset), resolve_device(config.device)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    check_run(config.copy_with(strategy="sequential"), spec.input_shape, spec.num_classes)
    make_strategy(config.strategy)  # an unknown one is told before the units are timed
    units = [unit.to(device) for unit in make_units(config, spec.input_shape, spec.num_classes)]
    shape = (config.batch_size, *spec.input_shape)
    images = networks.NETWORKS[config.network].takes == "images"
    x = torch.randn(shape, device=device) if images else torch.randint(spec.num_classes, shape, device=device)
    name = f"{config.network} for {config.dataset}"
    own.balance(options, own.Training(name, config.optimizer, units, x, optimizer_factory(config), config.strategy))
