"""What the trainings to a loss wrote: updates to the target by seed, seconds per update by round, and their product."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.runs.records import read_json
from layerpipe2.planning.variants import Variant
from paper_figures import variant_style
from paper_figures.records.regimes import ONE_HOST, place_name

_REMEDY = "measure again: make pipelines"
_COLUMNS = {
    "updates": {"network", "strategy", "lr", "seed", "part", "updates"},
    "tuned": {"network", "strategy", "lr", "updates", "missed", "at_end", "chosen"},
    "seconds": {"network", "gigabits", "variant", "round", "batches", "fills", "seconds"},
    "checks": {"network", "gigabits", "variant", "seed", "updates", "simulated_loss", "loss", "seconds"},
}
_DRAWS, _LEVEL = 4000, 95


@dataclass(frozen=True)
class TimeToLoss:
    """The trainings of all networks.

    Attributes:
        provenance: where it was measured; ``options``, and the ``design`` with its ``networks`` and ``seeds``.
        places: one host, then two by their link.
        tuned: per network and strategy the best rate, whether it lies ``at_end`` of the grid, and whether it was
            ``chosen`` to be confirmed.
        updates: (network, strategy) -> updates to the target by seed, infinite where it was missed.
        seconds: (network, place, variant) -> seconds of one update in the steady state, by round.
        fills: variant -> updates' time that filling and draining its pipeline takes.
        checks: a row per choice that was really trained, on one host: measured ``seconds``, ``product``, ``target``,
            ``loss`` and ``simulated_loss``.
    """

    provenance: dict[str, Any]
    places: list[str]
    tuned: pd.DataFrame
    updates: dict[tuple[str, str], NDArray[np.float64]]
    seconds: dict[tuple[str, str, str], NDArray[np.float64]]
    fills: dict[str, int]
    checks: pd.DataFrame

    @property
    def networks(self) -> list[dict[str, Any]]:
        """Settings of the networks, with their targets."""
        return list(self.provenance["design"]["networks"])

    def variants(self, network: str, place: str) -> list[str]:
        """The choices there, kind by kind."""
        return variant_style.ordered(name for n, p, name in self.seconds if (n, p) == (network, place))

    def summary(self) -> pd.DataFrame:
        """A row per network, place and choice.

        Returns:
            ``updates`` and ``seconds_per_update`` (medians), ``reached`` and ``n`` (seeds), ``seconds`` to the target
            with its interval ``low``, ``high``: the product, infinite where most seeds missed the target.
        """
        rows = []
        for (network, place, variant), times in self.seconds.items():
            found, draws = self.updates[network, Variant.parse(variant).learns_as], self._draws(network, place)[variant]
            low, high = _interval(draws)
            row = {"network": network, "place": place, "variant": variant, "n": len(found)}
            row |= {"updates": np.median(found), "reached": int(np.isfinite(found).sum())}
            row |= {"seconds_per_update": np.median(times), "low": low, "high": high}
            rows.append(row | {"seconds": float(_product(np.median(found), self.fills[variant], np.median(times)))})
        return pd.DataFrame(rows)

    def leads(self) -> pd.DataFrame:
        """A row per network and place: seconds of the best other choice over those of the best asynchronous pipeline.

        Returns:
            ``fastest`` of all by medians, empty if nobody reached the target; ``peer``, the best of the others, and
            ``ours``; ``ratio`` with ``low``, ``high``. The best on either side is chosen anew in every draw, so that
            the interval knows of the choice.
        """
        rows, shown = [], self.summary()
        for (network, place), mine in shown.groupby(["network", "place"], sort=False):
            draws, medians = self._draws(str(network), str(place)), mine.set_index("variant")["seconds"]
            ours = [name for name in medians.index if variant_style.group(name) == variant_style.OURS]
            others = [name for name in medians.index if name not in ours]
            low, high = _interval(_over(_best(draws, others), _best(draws, ours)))
            middle = float(_over(medians[others].min(), medians[ours].min()))
            row = {
                "network": network,
                "place": place,
                "fastest": medians.idxmin() if medians.min() < np.inf else "",
                "peer": medians[others].idxmin(),
            }
            rows.append(row | {"ours": medians[ours].idxmin(), "ratio": middle, "low": low, "high": high})
        return pd.DataFrame(rows)

    def _draws(self, network: str, place: str) -> dict[str, NDArray[np.float64]]:
        """Seconds of every choice in resampled experiments: the same seeds and rounds for all."""
        random, seeds = np.random.default_rng(0), len(self.updates[network, SEQUENTIAL])
        rounds = next(len(times) for (n, p, _), times in self.seconds.items() if (n, p) == (network, place))
        which, when = (random.integers(size, size=(_DRAWS, size)) for size in (seeds, rounds))
        found = {}
        for variant in self.variants(network, place):
            updates = np.median(self.updates[network, Variant.parse(variant).learns_as][which], axis=1)
            times = np.median(self.seconds[network, place, variant][when], axis=1)
            found[variant] = _product(updates, self.fills[variant], times)
        return found


def load(folder: Path) -> TimeToLoss | None:
    """Read the files in a folder; None if they aren't there, or the measurement was broken off.

    Raises:
        UserError: if they are broken.
    """
    paths = {name: folder / f"{name}.csv" for name in _COLUMNS}
    if not all(path.exists() for path in (*paths.values(), folder / "provenance.json")):
        return None
    try:
        tables = {name: pd.read_csv(path) for name, path in paths.items()}
        for name, table in tables.items():
            if not _COLUMNS[name] <= set(table.columns) or table.empty:
                raise ValueError(f"columns {', '.join(table.columns)} of {name}")
        return _read(read_json(folder / "provenance.json", _REMEDY), tables)
    except (ValueError, LookupError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the trainings to a loss in {folder} are broken ({reason}); {_REMEDY}") from None


def _read(provenance: dict[str, Any], tables: dict[str, pd.DataFrame]) -> TimeToLoss:
    seconds, checks = (
        tables[name].assign(place=tables[name]["gigabits"].map(place_name)) for name in ("seconds", "checks")
    )
    rates = sorted(seconds["gigabits"].dropna().unique(), reverse=True)
    places = [ONE_HOST, *map(place_name, rates)]
    networks = provenance["design"]["networks"]
    orders = {  # rounds were measured in random order, checks in that of the design
        "network": [network["network"] for network in networks],
        "place": places,
        "variant": list(dict.fromkeys(checks["variant"])),
    }
    keys = {name: seconds[name].map({value: i for i, value in enumerate(order)}) for name, order in orders.items()}
    seconds = seconds.loc[pd.DataFrame(keys).assign(round=seconds["round"]).sort_values([*keys, "round"]).index]
    checks["target"] = checks["network"].map({network["network"]: network["target"] for network in networks})
    if not (seconds["seconds"] > 0).all():
        raise ValueError("a time isn't positive")
    seconds["seconds"] *= seconds["batches"] / (seconds["batches"] + seconds["fills"])
    times = {
        key: mine["seconds"].to_numpy() for key, mine in seconds.groupby(["network", "place", "variant"], sort=False)
    }
    for (network, place, variant), found in list(times.items()):  # one process needs no link
        if place == ONE_HOST and variant == "plain":
            times |= {(network, there, variant): found for there in places[1:]}
    runs = tables["updates"][tables["updates"]["part"] == "confirmation"].sort_values("seed")
    updates = {
        key: mine["updates"].fillna(np.inf).to_numpy(float) for key, mine in runs.groupby(["network", "strategy"])
    }
    missing = {(network, Variant.parse(name).learns_as) for network, _, name in times} - set(updates)
    if missing or len({len(found) for found in updates.values()}) != 1:
        raise ValueError(f"seeds are missing, as of {missing or 'one choice'}")
    fills = dict(zip(seconds["variant"], seconds["fills"], strict=True))
    key = list(checks[["network", "place", "variant"]].itertuples(index=False, name=None))
    per = [np.median(times[name]) for name in key]
    checks["product"] = _product(checks["updates"].to_numpy(), checks["variant"].map(fills).to_numpy(), np.array(per))
    return TimeToLoss(provenance, places, tables["tuned"], updates, times, fills, checks)


def _product(updates: Any, fills: Any, seconds: Any) -> Any:
    return (updates + fills) * seconds


def _over(theirs: Any, ours: Any) -> NDArray[np.float64]:
    """Ratios of times; 1 where both are infinite: neither is first."""
    with np.errstate(invalid="ignore"):
        ratio = np.divide(theirs, ours)
    return np.where(np.isnan(ratio), 1.0, ratio)


def _best(draws: dict[str, NDArray[np.float64]], names: list[str]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.min([draws[name] for name in names], axis=0)
    return found


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles; none of them lies between a finite and an infinite value."""
    rest = (100 - _LEVEL) / 2
    low, high = np.percentile(draws, [rest, 100 - rest], method="nearest")
    return float(low), float(high)
