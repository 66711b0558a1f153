"""Two strategies compared test example by test example: what part of their difference the examples make."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from layerpipe2.lab.data import describe
from layerpipe2.lab.data.text import TextSpec
from layerpipe2.lab.judging.designs import COLUMNS, LATEST, SEQUENTIAL, STASH
from layerpipe2.lab.runs.correct import Counts, spread, unpacked
from layerpipe2.lab.runs.records import Record, Row

REFERENCES = (SEQUENTIAL, STASH, LATEST)
"""What every strategy of a partition is compared with."""
_CELL = COLUMNS["examples"][:6]
_SAME = _CELL[:4]  # a cell's and that of the sequential training that it is compared with

_Seeds = dict[int, Counts]
_Strategies = dict[str, _Seeds]
_Cells = dict[Sequence[object], _Strategies]


def example_rows(records: Iterable[Record]) -> Iterator[Row]:
    """A row for every strategy of a partition and every other one of :data:`REFERENCES`.

    ``spread`` is a standard deviation over the test examples, as a fraction, of the difference between the means over
    the seeds with which both have completed (:func:`layerpipe2.lab.runs.correct.spread`).

    Sequential training is the same for all partitions.
    """
    partitions, alone = _grouped(records)
    for cell, strategies in partitions.items():
        same, rate = cell[: len(_SAME)], cell[-1]
        baseline = alone.get((*same, rate), alone.get((*same, "tuned"), {}))
        own_rate = partitions.get((*cell[:-1], "tuned"), {}) if rate == "common" else {}  # stash has no other
        everyone = {**baseline, **{n: c for n, c in own_rate.items() if n == STASH}, **strategies}
        for name, reference in product(strategies, REFERENCES):
            if name != reference and reference in everyone:
                row = dict(zip(_CELL, cell, strict=True)) | {"strategy": name, "reference": reference}
                yield from _compared(row, everyone[name], everyone[reference])


def _compared(row: Row, one: _Seeds, other: _Seeds) -> Iterator[Row]:
    """The row with the spread, over the seeds with which both have completed."""
    seeds = sorted(one.keys() & other.keys())
    if seeds:
        first, second = ([counts[seed] for seed in seeds] for counts in (one, other))
        found = spread(first, second, _predictions(str(row["dataset"])))
        yield row | {"examples": len(first[0]), "spread": found}


def _grouped(records: Iterable[Record]) -> tuple[_Cells, _Cells]:
    """The counts of every completed run: those of partitions, and those of sequential training."""
    partitions: _Cells = defaultdict(lambda: defaultdict(dict))
    alone: _Cells = defaultdict(lambda: defaultdict(dict))
    for record in records:
        config, test = record["config"] | {"rate": record["rate"]}, record["test"]
        if test and test.get("correct"):
            sequential = config["strategy"] == SEQUENTIAL
            names = (*_SAME, "rate") if sequential else _CELL
            groups = (alone if sequential else partitions)[tuple(config[name] for name in names)]
            groups[config["strategy"]][config["seed"]] = unpacked(test["correct"], test["images"])
    return partitions, alone


def _predictions(dataset: str) -> int:
    spec = describe(dataset)
    return spec.context if isinstance(spec, TextSpec) else 1
