"""``layerpipe2 derive`` with the networks of the study."""

import argparse

from layerpipe2.cli import derive as own
from layerpipe2.lab.networks import outline
from layerpipe2.theory.network import layered


def run(options: argparse.Namespace) -> None:
    """Derive the pipeline of a network, or of a chain of layers.

    Raises:
        UserError: as :func:`layerpipe2.cli.derive.run`.
    """
    own.run(options, None if options.network is None else layered(outline(options.network)))
