"""What the regime map wrote: times of every choice at every point and place, predicted and measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import read_json
from layerpipe2.planning.variants import Variant
from paper_figures import variant_style

_REMEDY = "measure again: make pipelines"
POINT = ["network", "width", "batch_size"]
ONE_HOST = "one host"
CLOSE = 0.05
"""How much longer a choice may take than the fastest one to be as good."""
_SIZES = ["held_out", "parameter_bytes", "cut_bytes"]
_PREDICTED = {*POINT, *_SIZES, "gigabits", "variant", "batches", "seconds"}
_MEASURED = {*POINT, "gigabits", "variant", "round", "seconds"}


@dataclass(frozen=True)
class Regimes:
    """The map.

    Attributes:
        provenance: where it was measured; ``machine``, ``links`` by Gbit/s, and ``options``.
        places: one host, then two by their link, fastest first.
        choices: a row per point, place and choice: the columns :data:`POINT`, held_out (whether nothing was measured at
            the point before the model had its form), parameter_bytes, cut_bytes, place, variant, predicted (s per
            mini-batch, or absent), batches (how many were timed). One process is a choice everywhere.
        times: the same keys and ``round`` -> measured seconds per mini-batch.
    """

    provenance: dict[str, Any]
    places: list[str]
    choices: pd.DataFrame
    times: pd.DataFrame

    @property
    def is_quick(self) -> bool:
        """Whether it only shows that everything works."""
        return bool(self.provenance["options"]["quick"])

    @property
    def batches(self) -> dict[str, str]:
        """Mini-batches that are timed: the range of asynchronous pipelines, and the fewest of any choice."""
        ours = self.choices[self.choices["variant"].map(variant_style.group) == variant_style.OURS]["batches"]
        return {"ours": f"{ours.min()} to {ours.max()}", "fewest": str(self.choices["batches"].min())}

    @property
    def rounds_of_each(self) -> int:
        """How often every choice was measured."""
        return int(self.times["round"].nunique())

    def bandwidth(self, place: str) -> float:
        """Measured bytes/s of the link there, by gloo."""
        machine, links = self.provenance["machine"], self.provenance["links"]
        return float((machine["link"] if place == ONE_HOST else links[place.removesuffix(" Gbit/s")])["bandwidth"])

    def neighbours_bandwidth(self, place: str) -> float:
        """The same of neighbours in an asynchronous pipeline, which share memory on one host."""
        shared = self.provenance["machine"]["shared"]
        return float(shared["bandwidth"]) if shared and place == ONE_HOST else self.bandwidth(place)

    def summary(self) -> pd.DataFrame:
        """The choices with ``measured`` (median s) and ``speed`` (over one process, ratio of these)."""
        key = [*POINT, "place", "variant"]
        found = self.times.groupby(key, sort=False)["seconds"].median().rename("measured").reset_index()
        plain = found[found["variant"] == "plain"].set_index([*POINT, "place"])["measured"].rename("plain")
        found = found.join(plain, on=[*POINT, "place"])
        found["speed"] = found.pop("plain") / found["measured"]
        return self.choices.join(found.set_index(key), on=key)

    def errors(self) -> pd.DataFrame:
        """The choices that were predicted, with ``error``: measured over predicted time, less one.

        One process, which is measured once for all places, counts on one host alone.
        """
        found = self.summary()
        found["error"] = found["measured"] / found["predicted"] - 1
        return found[(found["variant"] != "plain") | (found["place"] == ONE_HOST)].dropna(subset="error")

    def winners(self) -> pd.DataFrame:
        """A row per point and place.

        Returns:
            The columns of the point, ``held_out``, ``parameter_bytes``, ``cut_bytes``, ``place``; ``step``: measured s
            of one process; ``fastest`` choice and its ``speed``; whether it was ``decided``: faster than every choice
            of another kind in every round; ``foretold``: the choice that was predicted to be fastest, ``loss``: how
            much longer that one takes, as a share, and ``lead``: how much longer the next one was predicted to take.
        """
        rows = []
        for (*point, place), mine in self.summary().groupby([*POINT, "place"], sort=False):
            mine = mine.set_index("variant")
            best, guesses = mine["measured"].idxmin(), mine["predicted"].astype(float).sort_values(kind="stable")
            foretold = guesses.index[0]
            times = self._rounds(point, place)
            others = [name for name in times if variant_style.group(name) != variant_style.group(best)]
            rows.append(
                dict(zip(POINT, point, strict=True))
                | {key: mine[key].iloc[0] for key in _SIZES}
                | {"place": place, "step": mine.loc["plain", "measured"], "fastest": best}
                | {"speed": mine.loc[best, "speed"], "foretold": foretold}
                | {"decided": bool((times[best] < times[others].min(axis=1)).all())}
                | {"loss": mine.loc[foretold, "measured"] / mine.loc[best, "measured"] - 1}
                | {"lead": guesses.iloc[1] / guesses.iloc[0] - 1}
            )
        return pd.DataFrame(rows)

    def rules(self) -> dict[str, pd.Series]:
        """What it costs to always take one choice: how much longer that takes than the fastest, as a share.

        Returns:
            Choice -> a number per point and place, in the order of :meth:`winners`. Choices that some place lacks are
            left out, but for threads, which two hosts have as processes: there the rule takes one of them.
        """
        times = self.summary().set_index([*POINT, "place", "variant"])["measured"].unstack("variant")
        times = times.loc[list(self.winners()[[*POINT, "place"]].itertuples(index=False, name=None))]
        losses = times.div(times.min(axis=1), axis=0) - 1
        threads = [name for name in losses if Variant.parse(name).kind == "threads"]
        losses[threads] = losses[threads].apply(lambda column: column.fillna(losses["plain"]))
        return {name: losses[name] for name in variant_style.ordered(losses) if losses[name].notna().all()}

    def hindsight(self) -> tuple[dict[str, str], pd.Series]:
        """The rule of each place that turned out best on average there, and what it costs, as :meth:`rules`."""
        losses, places = pd.DataFrame(self.rules()), self.winners()["place"].to_numpy()
        best = {place: str(losses[places == place].mean().idxmin()) for place in self.places}
        costs = [loss[best[place]] for place, (_, loss) in zip(places, losses.iterrows(), strict=True)]
        return best, pd.Series(costs, index=losses.index)

    def rounds(self, one: str, other: str) -> pd.DataFrame:
        """Two choices against each other, where both were measured.

        Returns:
            :meth:`winners` with ``side``: 1 if ``one`` was faster in every round, -1 if ``other`` was, 0 if neither.
        """
        times = self.times.set_index([*POINT, "place", "round", "variant"])["seconds"].unstack("variant")
        ahead = (times[one] < times[other])[times[[one, other]].notna().all(axis=1)].groupby([*POINT, "place"])
        side = (ahead.all().astype(int) - (~ahead.max()).astype(int)).rename("side")
        return self.winners().join(side, on=[*POINT, "place"], how="inner")

    def _rounds(self, point: list[Any], place: str) -> pd.DataFrame:
        """Seconds by round and choice."""
        here = (self.times[[*POINT, "place"]] == [*point, place]).all(axis=1)
        return self.times[here].pivot(index="round", columns="variant", values="seconds")


def load(folder: Path) -> Regimes | None:
    """Read the map in a folder; None if there is none, or its measurement was broken off.

    Raises:
        UserError: if it is broken.
    """
    paths = [folder / name for name in ("provenance.json", "predicted.csv", "measured.csv")]
    if not all(path.exists() for path in paths):
        return None
    try:
        provenance, predicted, measured = read_json(paths[0], _REMEDY), *map(pd.read_csv, paths[1:])
        for table, columns in ((predicted, _PREDICTED), (measured, _MEASURED)):
            if set(table.columns) != columns:
                raise ValueError(f"columns {', '.join(table.columns)}")
        return _regimes(provenance, predicted, measured)
    except (ValueError, LookupError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the map in {folder} is broken ({reason}); {_REMEDY}") from None


def _regimes(provenance: dict[str, Any], predicted: pd.DataFrame, measured: pd.DataFrame) -> Regimes:
    rates = sorted(predicted["gigabits"].dropna().unique(), reverse=True)
    places = [ONE_HOST, *map(place_name, rates)]
    choices, times = (_everywhere(table, places) for table in (predicted, measured))
    missing = set(_keys(choices)) ^ set(_keys(times))
    if missing:
        raise ValueError(f"predicted or measured alone: {min(missing)}")
    bases = measured.groupby([*POINT, "round"], sort=False)["variant"].agg(lambda names: "plain" in set(names))
    if not len(bases) or not bases.all() or not (measured["seconds"] > 0).all():
        raise ValueError("one process is missing in a round, or a time isn't positive")
    columns = [*POINT, *_SIZES, "place", "variant", "batches", "seconds"]
    return Regimes(provenance, places, choices[columns].rename(columns={"seconds": "predicted"}), times)


def place_name(gigabits: float) -> str:
    """A place for readers, by the Gbit/s of its link; without one, one host."""
    return ONE_HOST if pd.isna(gigabits) else f"{gigabits:g} Gbit/s"


def _everywhere(table: pd.DataFrame, places: list[str]) -> pd.DataFrame:
    """With the column ``place``, and one process, which needs no link, at all places; sorted by place."""
    table = table.assign(place=table["gigabits"].map(place_name)).drop(columns="gigabits")
    plain = table[table["variant"] == "plain"]
    return pd.concat([table, *(plain.assign(place=place) for place in places[1:])], ignore_index=True)


def _keys(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table[[*POINT, "place", "variant"]].itertuples(index=False, name=None))
