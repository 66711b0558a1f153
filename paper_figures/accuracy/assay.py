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
from layerpipe2.lab.judging.history_costs import judge, won_back
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures.page import report
from paper_figures.style import labels
from paper_figures.text import dataset_label, law_label, network_label, number, optimizer_label, percent
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


NEEDED = "needed"
"""What a history is where strategies are judged."""
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


def share_text(row: Mapping[str, Any]) -> str:
    """``93 % [80, 110]`` of the inconsistency; empty where that isn't told."""
    found = won_back(row)
    return f"{percent(found.value)} [{100 * found.low:.0f}, {100 * found.high:.0f}]" if found else ""


def costs_table(judged: Assay) -> pd.DataFrame:
    """A row per cell for readers: both costs with their intervals, and whether a verdict is possible."""
    rows = [
        {
            "cell": row["cell"],
            "n": row["seeds"],
            "unit": row["unit"],
            "margin": number(2)(row["margin"]),
            "sequential": score(row["whole"]),
            "stash": score(row["reached"]),
            "the delay costs": interval(row["delay"], row["delay_low"], row["delay_high"]) + few(row),
            "no history costs": interval(row["inconsistency"], row["inconsistency_low"], row["inconsistency_high"]),
            "stash diverged": f"{row['diverged_stash']} of {row['seeds']}",
            "latest diverged": f"{row['diverged_latest']} of {row['seeds']}",
            "a verdict is": (in_place_of_a_verdict(row) or "possible") + _would_tell(row),
        }
        for row in judged.costs.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


_MOST_SEEDS = 1000
"""A larger number of seeds is only said to be larger."""


def seeds(needs: float) -> str:
    """``about 55 seeds``: how many would decide."""
    return f"{f'about {needs:.0f}' if needs <= _MOST_SEEDS else f'more than {_MOST_SEEDS}'} seeds"


def _would_tell(row: Mapping[str, Any]) -> str:
    """How many seeds a cell that can't tell would need, at the difference that was found, and if that is above 0."""
    if in_place_of_a_verdict(row) != CANNOT_TELL:
        return ""
    above = "above 0; " if row["inconsistency_low"] > 0 else ""
    return f" ({above}{seeds(row['needs'])} would)"


def failed(row: Mapping[str, Any]) -> str:
    """How many runs of the latest weights diverged in a cell; empty if none did."""
    return f" ({row['diverged_latest']} of {row['seeds']} diverged)" if row["diverged_latest"] else ""


def few(row: Mapping[str, Any]) -> str:
    """The number of seeds with a baseline, where it is not that of the cell."""
    return "" if row["delay_n"] in (0, row["seeds"]) else f" (n={row['delay_n']})"


def rules_table(judged: Assay) -> pd.DataFrame:
    """A row per cell and strategy for readers."""
    rows = [
        {
            "cell": row["cell"],
            "strategy": find_strategy(row["strategy"]).label,
            "n": row["n"],
            "unit": row["unit"],
            "diverged alone": row["lost"],
            "against stash": interval(row["mean"], row["low"], row["high"]) if row["n"] > 1 else "–",
            **({"test-image error (points)": _image_error(row)} if "image_error" in row else {}),
            "share won back (%)": share_text(row).replace(" %", "") or "–",
            "outcome": in_place_of_a_verdict(row) or row["outcome"],
        }
        for row in judged.rules.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


def _image_error(row: Mapping[str, Any]) -> str:
    return number(2)(row["image_error"]) if row["unit"] == "points" else "–"


def verdict_table(found: Assay) -> pd.DataFrame:
    """Strategies by cells where a verdict is possible, or by all if none is: the share won back and the outcome."""
    found = found.sensitive if len(found.sensitive.costs) else found
    names = ordered(found.rules["strategy"])
    known = {(row["cell"], row["strategy"]): _verdict(row) for row in found.rules.to_dict("records")}
    columns = {cell: [known.get((cell, name), "–") for name in names] for cell in found.costs["cell"]}
    return pd.DataFrame({"strategy": labels(names)} | columns, dtype=object)


def _verdict(row: Mapping[str, Any]) -> str:
    if words := in_place_of_a_verdict(row):
        return words
    return ": ".join(filter(None, [share_text(row), row["outcome"]]))


def score(value: float) -> str:
    """A mean score: per cent of test accuracy, or nats of test loss, which are counted negative; a dash if absent."""
    return number(2)(abs(value))


def interval(mean: float, low: float, high: float) -> str:
    """``+1.20 [+0.40, +2.00]``; a dash if there is none."""
    values = (round(value, 2) + 0.0 for value in (mean, low, high))  # no -0.00
    return "–" if mean != mean else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*values)


report.table("assay_costs", shown=costs_table)(lambda judged: judged.costs)
report.table("assay_rules", shown=rules_table)(lambda judged: judged.rules)
