"""All cells of an experiment, judged: what a delay and the lack of a history cost, and what each strategy is worth.

:mod:`layerpipe2.lab.judging.history_costs` explains the costs, and where a verdict is possible.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import pipeline_aware, rows_with
from layerpipe2.lab.judging.history_costs import judge
from paper_figures.text import dataset_label, law_label, network_label, optimizer_label
from paper_figures.verdicts import OUTCOMES, Answer


def short_name(cell: Mapping[str, Any]) -> str:
    """``MLP, 9 stages``: enough where networks, partitions and the choice of the rate are all that cells differ in."""
    rate = ", one rate" if cell["rate"] == "common" else ""
    return f"{network_label(cell['network'])}, {cell['num_stages']} stages{rate}"


def long_name(cell: Mapping[str, Any]) -> str:
    """``MLP, Fashion-MNIST, SGD, 9 stages``, and the delay law and the rate where they aren't the usual ones."""
    optimizer = optimizer_label(cell["optimizer"], cell["momentum"])
    words = [network_label(cell["network"]), dataset_label(cell["dataset"]).split(",")[0], optimizer]
    words += [f"{cell['num_stages']} stages"]
    law = law_label(cell["convention"]).split(",")[0]
    words += [f"{law} delays"] if cell["convention"] != "layerpipe2" else []
    words += {"tuned": [], "common": ["one rate"]}.get(cell["rate"], [cell["rate"]])
    return ", ".join(words)


CANNOT_TELL, NOT_NEEDED, UNTRAINED = "can't tell", "not needed", "hardly trained"
"""What stands in place of a verdict on a history: nothing is shown, none is needed, or stash gains too little."""


def in_place_of_a_verdict(row: Mapping[str, Any]) -> str:
    """The words for a cell, or a strategy in it, where no strategy is judged; empty where they are."""
    if row["sensitive"]:
        return ""
    return UNTRAINED if not row["trained"] else NOT_NEEDED if row["needless"] else CANNOT_TELL


@dataclass(frozen=True)
class Assay:
    """Costs of all cells, and every other strategy against stash in each: see :func:`judge`."""

    costs: pd.DataFrame
    rules: pd.DataFrame

    @classmethod
    def of(
        cls,
        runs: pd.DataFrame,
        settings: ComparisonSettings,
        examples: pd.DataFrame | None = None,
        name: Callable[[Mapping[str, Any]], str] = short_name,
    ) -> Self:
        """Of all runs of an experiment; ``name`` makes what a cell is called.

        Both tables have the columns ``cell``, ``margin`` and ``unit`` as well.

        Raises:
            UserError: if two cells have one name.
        """
        tables = judge(runs, settings, examples)
        names = [name(row) for row in tables[0].to_dict("records")]
        if len(set(names)) < len(names):
            raise UserError(f"two cells are called {max(names, key=names.count)}; use an experiment for each")
        known = [t if "margin" in t else t.assign(margin=settings.margin) for t in tables]
        return cls(*(t.assign(cell=[name(row) for row in t.to_dict("records")], unit=settings.unit) for t in known))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The cells of several experiments, each judged by itself."""
        found = list(parts)
        return cls(*(pd.concat([getattr(p, name) for p in found], ignore_index=True) for name in ("costs", "rules")))

    def within(self, **values: Any) -> Self:
        """The cells with these values, or with one of several."""
        return replace(self, costs=rows_with(self.costs, values), rules=rows_with(self.rules, values))

    def without(self, **values: Any) -> Self:
        """The other cells."""
        keep = [table.index.difference(rows_with(table, values).index) for table in (self.costs, self.rules)]
        return replace(self, costs=self.costs.loc[keep[0]], rules=self.rules.loc[keep[1]])

    @property
    def sensitive(self) -> Self:
        """The cells in which a verdict means something."""
        return self.within(sensitive=True)

    @property
    def aware(self) -> list[str]:
        """The candidates for the paper's method among its strategies."""
        return pipeline_aware(dict.fromkeys(self.rules["strategy"]))

    def answer(self, strategy: str) -> Answer:
        """Whether a strategy loses nothing against stash in any sensitive cell."""
        mine = rows_with(self.rules, {"strategy": strategy, "sensitive": True})
        found = mine["outcome"].map(OUTCOMES).fillna(Answer.UNDECIDED)
        if Answer.NO in set(found):
            return Answer.NO
        everywhere = len(found) == int(self.costs["sensitive"].sum()) > 0
        return Answer.YES if everywhere and set(found) == {Answer.YES} else Answer.UNDECIDED
