"""The table of strategies: their names, as in options, records and figures. Nothing here imports torch by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from layerpipe2.errors import UserError, did_you_mean, plain, shown

if TYPE_CHECKING:
    from layerpipe2.strategies.base import Strategy

Family = Literal["sequential", "stash", "latest", "average", "pair", "window", "field"]

_AVERAGE = "ema-"
"""What the names of moving averages begin with: those have a form with ``-raw``."""
_LONGEST = 40
"""Characters of a name, which file names hold."""


@dataclass(frozen=True)
class NamedStrategy:
    """A strategy by name.

    Attributes:
        name: as in options, records and tables.
        label: short name for readers, in legends and tables.
        description: one line of help.
        family: the kind of method. ``average`` and ``pair`` reconstruct the weights approximately; ``field`` acts on
            the delay, or is one of another table.
        make: a new strategy.
        aware: whether the weights of its average follow from the delay.
        raw: whether it averages lr x gradient, not the applied updates (names that end in ``-raw``).
        warm: whether epochs with exact weights came first (names that end in ``-warm``, of tables and figures: a run
            has the setting ``stash_epochs``).
        optimizers: names of those of a run that it is defined for; ``None``: all.
    """

    name: str
    label: str
    description: str
    family: Family
    make: Callable[[], Strategy]
    aware: bool = False
    raw: bool = False
    warm: bool = False
    optimizers: tuple[str, ...] | None = None

    @property
    def plain(self) -> str:
        """The name without ``-raw`` and ``-warm``."""
        return self.cold.removesuffix("-raw")

    @property
    def cold(self) -> str:
        """The name without ``-warm``."""
        return self.name.removesuffix("-warm")

    @property
    def exact(self) -> bool:
        """Whether it gives the backward pass the forward pass's own weights, up to rounding."""
        return self.family in ("sequential", "stash", "window")


def _maker(place: str, **settings: Any) -> Callable[[], Strategy]:
    """What makes ``module.Class`` of this package with ``settings``; imported when it is called."""
    module, _, name = place.partition(".")

    def make() -> Strategy:
        found: Strategy = getattr(import_module(f"layerpipe2.strategies.{module}"), name)(**settings)
        return found

    return make


def _make_average(rule: str, kind: str = "MovingAverage") -> Strategy:
    """An average whose decay is one of the rules, or a number."""
    average = import_module("layerpipe2.strategies.average")
    decay = average.DECAY_RULES.get(rule) or partial(_fixed, float(rule))
    made: Strategy = getattr(average, kind)(decay=decay)
    return made


def _fixed(decay: float, span: int) -> float:
    return decay


def _ruled_average(rule: str, formula: str) -> NamedStrategy:
    """The row of a decay that follows from the delay: a key of ``DECAY_RULES``."""
    text = f"pipeline-aware moving average, decay {formula}"
    return NamedStrategy(f"ema-{rule}", f"EMA {rule}", text, "average", partial(_make_average, rule), aware=True)


def _fixed_average(decay: str) -> NamedStrategy:
    """The row of ``ema-<decay>``."""
    text = "moving average of the applied updates, fixed decay (any number in (0, 1))"
    return NamedStrategy(f"ema-{decay}", f"EMA {decay}", text, "average", partial(_make_average, decay))


def _fixed_pair(correlation: str) -> NamedStrategy:
    """The row of ``pair-<correlation>``."""
    text = f"{_PAIR}, best for correlation {correlation} (any number in [0, 1))"
    make = _maker("pair.Pair", correlation=float(correlation))
    return NamedStrategy(f"pair-{correlation}", f"pair {correlation}", text, "pair", make, aware=True)


_PAIR = "moving average and the optimizer's momentum buffer"
_ROWS = (
    NamedStrategy("sequential", "sequential", "no pipeline: one stage, no delay", "sequential", _maker("stash.Stash")),
    NamedStrategy("stash", "stash", "exact weight stashing", "stash", _maker("stash.Stash")),
    NamedStrategy(
        "latest", "latest", "latest weights in the backward pass, no history", "latest", _maker("latest.Latest")
    ),
    _fixed_average("0.9"),
    _ruled_average("window", "(n-1)/n"),
    _ruled_average("running", "n/(n+1)"),
    _ruled_average("span", "(n-1)/(n+1)"),
    _ruled_average("lsq", "b of b^(n-1) (1+b)^2 = 1, best for white updates"),
    NamedStrategy(
        "pair",
        "pair",
        f"{_PAIR}, weighted by the updates' measured correlation",
        "pair",
        _maker("pair.Pair"),
        aware=True,
    ),
    _fixed_pair("0.9"),
    NamedStrategy(
        "update-window",
        "update window",
        "exact window of the applied updates (equals stashing)",
        "window",
        _maker("stash.UpdateWindow"),
    ),
    NamedStrategy(
        "feedback",
        "error feedback",
        "stash, and each update corrected by the last one's error (arXiv 2606.30634)",
        "field",
        _maker("feedback.ErrorFeedback"),
    ),
    NamedStrategy(
        "feedback-d",
        "error feedback over d",
        "the same, once per update of the delay",
        "field",
        _maker("feedback.ErrorFeedback", by_delay=True),
    ),
    NamedStrategy(
        "last-update",
        "last-update prediction",
        "stash, and forward passes that read the weights predicted by the newest update",
        "field",
        _maker("prediction.LastUpdate"),
    ),
)

STRATEGIES: dict[str, NamedStrategy] = {row.name: row for row in _ROWS}
"""Name -> row. Further names that :func:`find_strategy` knows: any number as in ``ema-0.95`` and ``pair-0.5``, every
average with ``-raw`` behind it, and a mitigation with a history behind ``+`` as in ``feedback+ema-span``."""

FURTHER: list[Callable[[str], NamedStrategy | None]] = []
"""Other tables, which whoever imports them adds: asked for names that aren't in this one, they know a row or none."""

_PARAMETRISED: dict[str, tuple[Callable[[str], NamedStrategy], str, bool]] = {
    "ema": (_fixed_average, "decay", False),
    "pair": (_fixed_pair, "correlation", True),
}
"""First word of a name -> the row for the number that follows, what the number is, whether it may be 0."""


def find_strategy(name: str) -> NamedStrategy:
    """The row of a strategy: one of :data:`STRATEGIES`, or made for another number, for ``-raw`` or ``-warm``.

    Raises:
        UserError: on an unknown name, or a number out of range.
    """
    if not isinstance(name, str) or len(name) > _LONGEST:
        _unknown(name)
    if name in STRATEGIES:
        return STRATEGIES[name]
    for row in (find(name) for find in FURTHER):
        if row is not None:
            return row
    if "+" in name:
        return _joined(name)
    base, _, last = name.rpartition("-")
    if last == "warm":
        return _warm(name, find_strategy(base))
    if last == "raw":
        return _raw(name, find_strategy(base))
    kind, _, text = name.partition("-")
    try:
        (make_row, what, zero), value = _PARAMETRISED[kind], float(plain(text))
    except (KeyError, ValueError):
        _unknown(name)
    if not 0 < value < 1 and not (zero and value == 0):
        raise UserError(f"strategy '{name}' has {what} {text}; give a {what} between 0 and 1, as in {kind}-0.9")
    return make_row(text)


def _joined(name: str) -> NamedStrategy:
    """A mitigation and what else acts on the same weights, as in ``feedback+ema-span``."""
    rows = [find_strategy(part) for part in name.split("+")]
    if not any(row.family == "field" for row in rows) or any(row.warm or row.family == "sequential" for row in rows):
        raise UserError(f"strategy '{name}' joins no mitigation with a history; give both, as in feedback+ema-span")
    label = " + ".join(row.label for row in rows)
    return NamedStrategy(name, label, "; ".join(row.description for row in rows), "field", partial(_chained, rows))


def _chained(rows: Iterable[NamedStrategy]) -> Strategy:
    chain: Callable[..., Strategy] = import_module("layerpipe2.strategies.chained").chain
    return chain(*(make_strategy(row.name) for row in rows))


def make_strategy(name: str) -> Strategy:
    """The strategy that a name stands for.

    Raises:
        UserError: on an unknown name, or a number out of range.
    """
    strategy = find_strategy(name).make()
    object.__setattr__(strategy, "name", name)
    return strategy


def raw_forms(names: Iterable[str] = tuple(STRATEGIES)) -> list[str]:
    """The names of the same moving averages, of lr x gradient instead of the applied updates."""
    return [f"{name}-raw" for name in names if name.startswith(_AVERAGE)]


def _raw(name: str, base: NamedStrategy) -> NamedStrategy:
    if not base.name.startswith(_AVERAGE) or base.raw or base.warm:
        _unknown(name)
    rule = base.name.removeprefix(_AVERAGE)
    return replace(
        base,
        name=name,
        label=f"{base.label}, raw",
        description=f"{base.description}, of lr x gradient",
        make=partial(_make_average, rule, "RawAverage"),
        raw=True,
    )


def _warm(name: str, base: NamedStrategy) -> NamedStrategy:
    if base.warm:
        _unknown(name)
    return replace(
        base,
        name=name,
        label=f"{base.label}, warm-up",
        description=f"{base.description}, after epochs with exact weights",
        make=lambda: _unknown(name),
        warm=True,
    )


def _unknown(name: object) -> NoReturn:
    raise UserError(f"unknown strategy {shown(name)}; {did_you_mean(name, STRATEGIES)}")
