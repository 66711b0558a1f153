"""``layerpipe2 balance`` on the networks of the study."""

import argparse

import torch
from torch import nn

from layerpipe2.cli import balance as own
from layerpipe2.cli.own import refuse_settings
from layerpipe2.cutting import cut_finely
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.device import resolve_device
from layerpipe2.lab import networks
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import describe
from layerpipe2.lab.own import SETTINGS
from layerpipe2.lab.own.training import called, first_inputs
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import check_run, make_units, optimizer_factory
from layerpipe2.strategies import make_strategy


def run(options: argparse.Namespace) -> None:
    """Balance what ``layerpipe2 train`` would train, on made-up data of its shape, or a training of one's own.

    Raises:
        UserError: on bad settings.
    """
    config = read_run(options)
    if options.module is not None:
        _own(options, config)
        return
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


def _own(options: argparse.Namespace, config: RunConfig) -> None:
    keep_freed_memory()
    found = called(options.module, config)
    if found.pipeline is not None:
        refuse_settings(options, SETTINGS - {"threads"})
        own.balance_pipeline(options, found.pipeline, found.train)
        return
    x, device = first_inputs(options.module, found), resolve_device(config.device)
    model = found.model
    units = list(cut_finely(model, x)) if isinstance(model, nn.Module) else own.units_of(model)
    units, x = [unit.to(device) for unit in units], x.to(device)
    own.balance(
        options,
        own.Training(options.module, config.optimizer, units, x, optimizer_factory(config), config.strategy),
    )
