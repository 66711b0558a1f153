"""``layerpipe2 derive``."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerpipe2.cli.console import terminal_width, wrapped
from layerpipe2.cli.derivation_text import described, explain, export, legend
from layerpipe2.cli.options import read_options
from layerpipe2.cli.theory_commands import DeriveOptions
from layerpipe2.errors import UserError
from layerpipe2.runs.records import write_text
from layerpipe2.theory import Derivation, LayeredNetwork, Step, chain, derive, named

_LAYERS = 4


def run(options: argparse.Namespace) -> None:
    """Derive the pipeline; print steps and proofs, or one step's graph.

    Raises:
        UserError: on bad settings, an unknown step or format, or a file that can't be written.
    """
    wanted = read_options(DeriveOptions, options)
    derivation = derive(
        _network(wanted), group_size=wanted.group_size, groups=wanted.groups, convention=wanted.convention
    )
    text = _graph(derivation, options) if options.step or options.export else explain(derivation)
    if options.out is not None:  # not wrapped: no reader's terminal is known
        write_text(Path(options.out), text.rstrip("\n") + "\n")
        print(f"written: {options.out}")
    else:
        print(text.rstrip("\n") if options.export else wrapped(text, terminal_width()))


def _network(options: DeriveOptions) -> LayeredNetwork:
    if options.network is not None:
        return named(options.network)
    return chain(options.layers or _LAYERS)


def _graph(derivation: Derivation, options: argparse.Namespace) -> str:
    step = _step(derivation, options.step)
    return export(step.graph, options.export) if options.export else f"{described(step)}\n\n{legend()}"


def _step(derivation: Derivation, number: str | None) -> Step:
    """The step of this number; the last one by default."""
    known = {step.number: step for step in derivation.steps}
    if number is None:
        return derivation.steps[-1]
    if number not in known:
        raise UserError(f"--step is '{number}'; this derivation has the steps {', '.join(known)}")
    return known[number]
