"""Strategies that answer questions: what beats the exact old weights, where a training becomes unstable, two poles.

``mixed-E``      the backward pass reads ``(1 - E) W(t - d) + E W(t)``: ``mixed-0`` is ``stash``, ``mixed-1`` is
                 ``latest``; ``mixed--0.5`` reads weights that are older than those of the forward pass
``NAME-from-N``  the exact weights before update ``N``, strategy ``NAME`` from there on: what the setting
                 ``stash_epochs`` says of a whole run, as a name, so that one experiment can have several
``two-poles``    an average with a pair of complex poles (:mod:`layerpipe2.theory.poles`)

They are strategies' names (:func:`layerpipe2.find_strategy`) once this module is imported.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from layerpipe2 import UserError, find_strategy
from layerpipe2.errors import plain
from layerpipe2.strategies.names import FURTHER, NamedStrategy

if TYPE_CHECKING:
    from layerpipe2.strategies import StashFirst, Strategy

MIXED, FROM, POLES = "mixed-", "-from-", "two-poles"


def find(name: str) -> NamedStrategy | None:
    """The row of a name for :func:`layerpipe2.find_strategy`; ``None`` if it is none of these.

    Raises:
        UserError: if the number is none, or the strategy that takes over is unknown.
    """
    if name.startswith(MIXED):
        share = _number(name, name.removeprefix(MIXED), "the share of the latest weights, as in mixed-0.25")
        return _mixed(name, share)
    if name == POLES:
        text = "average with a pair of complex poles, for white updates"
        return NamedStrategy(name, "two poles", text, "field", _maker("poles.TwoPoleAverage"), aware=True)
    base, mark, count = name.rpartition(FROM)
    if not mark:
        return None
    updates = _number(name, count, "a number of updates, as in latest-from-150")
    if updates != int(updates) or updates < 0:
        raise UserError(f"strategy '{name}' has {count} updates; give a whole number from 0 on")
    return _from(name, find_strategy(base), int(updates))


def _mixed(name: str, share: float) -> NamedStrategy:
    text = "the weights between those of the forward pass and the latest ones"
    return NamedStrategy(name, f"mixed {share:g}", text, "field", _maker("mixed.Mixed", share=share))


def _maker(place: str, **settings: float) -> "Callable[[], Strategy]":
    """What makes ``module.Class`` of this package with ``settings``; imported when it is called."""
    module, _, kind = place.partition(".")

    def make() -> "Strategy":
        made: Strategy = getattr(import_module(f"experiments.recall.{module}"), kind)(**settings)
        return made

    return make


def _from(name: str, then: NamedStrategy, updates: int) -> NamedStrategy:
    def make() -> "Strategy":
        made: StashFirst = import_module("layerpipe2.strategies").StashFirst(then=then.make(), updates=updates)
        return made

    text = f"exact weights before update {updates}, then: {then.description}"
    return NamedStrategy(name, f"{then.label} from {updates}", text, "field", make, optimizers=then.optimizers)


def _number(name: str, text: str, what: str) -> float:
    try:
        value = float(plain(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"strategy '{name}' has {text!r} there; give {what}")
    return value


FURTHER.append(find)
