"""The field in one table: every mitigation of staleness with what it needs and what it keeps.

A row's name is a strategy's name (:func:`layerpipe2.find_strategy`) once this module is imported. Where a row has a
number it stands behind the name, as in ``dc-asgd-2``; names are joined by ``+``, as in ``spectrain+stash`` and
``t1-700+t2``. A row that leaves the backward pass alone is trained with the weights there that its paper has, unless
the name says which.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from layerpipe2 import UserError, find_strategy
from layerpipe2.errors import plain
from layerpipe2.lab.runs.config import FURTHER_OPTIMIZERS
from layerpipe2.lab.runs.config import OPTIMIZERS as RUN_OPTIMIZERS
from layerpipe2.strategies.names import FURTHER, STRATEGIES, NamedStrategy

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from layerpipe2 import Delays, Strategy

SCREENED = ("sgd", "adamw", "nadam", "muon")
"""The optimizers that rows are compared with: SGD with momentum 0.9, AdamW, NAdam with beta1 0.99, Muon."""


def _of(place: str, **settings: Any) -> Callable[..., Any]:
    """What calls ``module.name`` of this package with ``settings``; imported when it is called."""
    module, _, name = place.partition(".")
    return lambda *arguments, **given: getattr(import_module(f"experiments.field.{module}"), name)(
        *arguments, **given, **settings
    )


def _torchs(name: str, **settings: Any) -> Callable[..., Any]:
    return lambda parameters, **given: getattr(import_module("torch.optim"), name)(parameters, **given, **settings)


OPTIMIZERS: "dict[str, Callable[..., Optimizer]]" = {
    "sgd": _torchs("SGD", momentum=0.9),
    "adamw": _torchs("AdamW"),
    "nadam": _of("nesterov.nadam"),
    "muon": _of("joined.muon"),
    "look-ahead": _of("nesterov.LookAhead"),
    "rotated": _of("rotation.rotated"),
}
"""Name -> parameters, ``lr`` and ``weight_decay`` -> optimizer."""


@dataclass(frozen=True)
class Row:
    """A mitigation.

    Attributes:
        label: for readers.
        source: the paper or code that it is taken from.
        touches: the part of the cost of a late gradient that it can touch.
        make: its strategy, of the number behind the name, if it has one.
        backward: the strategy that it is chained with for the backward pass; empty if it stashes or acts there itself.
        number: what the number behind the name is; empty if it has none.
        optimizers: those that it is defined for; the first is that of its paper or close to it. With all of
            :data:`SCREENED` it is for any other as well.
        delays: stages, mini-batches per update -> delays, if it is a delay law.
        accumulates: whether it needs several mini-batches per update.
        keeps: what beside the strategy's copies (``copies`` of the strategy) a rank keeps.
    """

    label: str
    source: str
    touches: Literal["delay", "inconsistency", "both"]
    make: "Callable[..., Strategy]" = find_strategy("stash").make
    backward: str = ""
    number: str = ""
    optimizers: tuple[str, ...] = SCREENED
    delays: "Callable[[int, int], Delays] | None" = None
    accumulates: bool = False
    keeps: str = ""


def _packaged(name: str, source: str, touches: Literal["delay", "inconsistency", "both"]) -> Row:
    """The row of a mitigation that is a strategy of the package."""
    known = find_strategy(name)
    return Row(known.label, source, touches, known.make)


def _predicted(label: str, source: str, name: str, **how: Any) -> Row:
    return Row(label, source, "both", _of(f"prediction.{name}"), **{"backward": "latest", **how})


ROWS: dict[str, Row] = {
    "paci": Row("PACI", "arXiv 2606.07881", "both", find_strategy("latest").make, accumulates=True),
    "feedback": _packaged("feedback", "arXiv 2606.30634", "delay"),
    "feedback-d": _packaged("feedback-d", "deduced from arXiv 2606.30634", "delay"),
    "spectrain": _predicted("SpecTrain", "arXiv 1809.02839", "SpecTrain", optimizers=("sgd",)),
    "pipeoptim": _predicted("PipeOptim", "arXiv 2312.00839", "PipeOptim", optimizers=("sgd", "adamw")),
    "xpipe": _predicted(
        "XPipe", "arXiv 1911.04610", "XPipe", backward="", number="stages", optimizers=("adamw", "sgd")
    ),
    "last-update": _packaged("last-update", "marin, pull request 6423", "both"),
    "look-ahead": Row("AsyncPP, Nesterov", "arXiv 2505.01099", "delay", optimizers=("look-ahead",)),
    "nadam": Row("AsyncPP, NAdam", "PluralisResearch/AsyncPP", "delay", optimizers=("nadam",)),
    "t1": Row("PipeMare T1", "arXiv 1910.05124", "delay", _of("rescheduling.Rescheduled"), "latest", "updates"),
    "t2": Row("PipeMare T2", "arXiv 1910.05124", "inconsistency", _of("discrepancy.DiscrepancyCorrection")),
    "spike": Row(
        "spike compensation",
        "arXiv 2003.11666",
        "delay",
        _of("compensation.SpikeCompensation"),
        "latest",
        optimizers=("sgd",),
    ),
    "dc-asgd": Row(
        "DC-ASGD, adaptive", "arXiv 1609.08326", "delay", _of("compensation.DelayCompensation"), number="lambda_0"
    ),
    "dc-asgd-fixed": Row(
        "DC-ASGD, fixed",
        "arXiv 1609.08326",
        "delay",
        _of("compensation.DelayCompensation", adaptive=False),
        number="lambda",
    ),
    "gap-aware": Row("gap-aware", "arXiv 1909.10802", "delay", _of("compensation.GapAware"), optimizers=("sgd",)),
    "2bw": Row("PipeDream-2BW", "arXiv 2006.09503", "delay", delays=_of("laws.constant_one"), accumulates=True),
    "amdp": Row("AMDP", "arXiv 2605.29664", "delay", delays=_of("laws.at_most_one"), accumulates=True),
    "rotation": Row(
        "basis rotation", "arXiv 2602.03515", "delay", optimizers=("rotated",), keeps="2 factors, 2 bases per matrix"
    ),
}
"""Name -> row. PipeMare's T3 is a schedule of two trainings (:mod:`experiments.field.synchronous`), no row."""


def row_of(name: str) -> tuple[Row, float | None] | None:
    """The row of a name without ``+``, and the number behind it; ``None`` if there is no such row.

    Raises:
        UserError: if there is no number where one belongs, or it is none.
    """
    if name in ROWS:
        if ROWS[name].number:
            raise UserError(f"strategy '{name}' needs its {ROWS[name].number}; give the number, as in {name}-2")
        return ROWS[name], None
    base, _, text = name.rpartition("-")
    if base not in ROWS or not ROWS[base].number:
        return None
    try:
        number = float(plain(text))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"strategy '{name}' has {ROWS[base].number} {text!r}; give a number")
    return ROWS[base], number


def find(name: str) -> NamedStrategy | None:
    """The row of a name for :func:`layerpipe2.find_strategy`; ``None`` if the package knows all of its parts.

    Raises:
        UserError: if another part is unknown, or their chain isn't defined.
    """
    parts = name.split("+")
    rows = [row_of(part) for part in parts]
    known = [row for row in rows if row is not None]
    if all(part in STRATEGIES for part, row in zip(parts, rows, strict=True) if row is not None):
        return None
    others = [find_strategy(part) for part, row in zip(parts, rows, strict=True) if row is None]
    makers = [partial(_make, *row) if row else find_strategy(part).make for part, row in zip(parts, rows, strict=True)]
    first = known[0][0].backward
    backward = [find_strategy(first).make] if first and not others else []
    label = " + ".join([*(row.label for row, _ in known), *(other.label for other in others)])
    text = f"{label} ({', '.join(dict.fromkeys(row.source for row, _ in known))})"
    make = partial(_chained, makers, backward)
    return NamedStrategy(name, label, text, "field", make, optimizers=common_optimizers(row for row, _ in known))


def common_optimizers(rows: Iterable[Row]) -> tuple[str, ...] | None:
    """The optimizers that all ``rows`` are defined for; ``None`` if each is for any."""
    particular = [row.optimizers for row in rows if row.optimizers != SCREENED]
    return tuple(name for name in OPTIMIZERS if all(name in own for own in particular)) if particular else None


def _make(row: Row, number: float | None) -> "Strategy":
    if number is None:
        return row.make()
    return row.make(int(number) if number == int(number) else number)


def _chained(makers: "Sequence[Callable[[], Strategy]]", backward: "Sequence[Callable[[], Strategy]]") -> "Strategy":
    from layerpipe2 import chain

    links = [make() for make in makers]
    if not any(link.acts("backward") for link in links):
        links += [make() for make in backward]
    return links[0] if len(links) == 1 else chain(*links)


FURTHER.append(find)
FURTHER_OPTIMIZERS.update({name: make for name, make in OPTIMIZERS.items() if name not in RUN_OPTIMIZERS})
