"""Seconds to a target loss: updates by seed, seconds per update by round, their product, and what they say."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.runs.records import read_json
from layerpipe2.planning.variants import Variant
from paper_figures import style, variant_style
from paper_figures.pipelines.benchmark import pipelines
from paper_figures.pipelines.regimes import ONE_HOST, place_name
from paper_figures.read import one_line
from paper_figures.text import listed, network_label, percent, plural, span
from paper_figures.verdicts import FASTER, Answer, Verdict, beside_one

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
    with one_line(f"the trainings to a loss in {folder}", _REMEDY):
        tables = {name: pd.read_csv(path) for name, path in paths.items()}
        for name, table in tables.items():
            if not _COLUMNS[name] <= set(table.columns) or table.empty:
                raise ValueError(f"columns {', '.join(table.columns)} of {name}")
        return _read(read_json(folder / "provenance.json", _REMEDY), tables)


@pipelines.value
def time_to_loss(folder: Path) -> TimeToLoss | None:
    """The trainings, if they were made."""
    return load(folder / "time_to_loss")


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


_WORDS = {Answer.YES: "faster", Answer.NO: "slower", Answer.UNDECIDED: "no difference shown"}


TITLE = "Seconds to a target loss, asynchronous pipelines against one process, threads, DDP, 1F1B and zero-bubble"


def _measured(time_to_loss: TimeToLoss | None) -> bool:
    return time_to_loss is not None


@pipelines.claim(place=1, when=_measured)
def first_to_loss(time_to_loss: TimeToLoss) -> Verdict:
    """Whether the best asynchronous pipeline reaches the targets before the best of all other choices."""
    found, leads = time_to_loss, time_to_loss.leads()
    leads["answer"] = [beside_one(row.low, row.high) for row in leads.itertuples()]
    places = [_counted(place, leads[leads["place"] == place]) for place in found.places]
    answers = set(leads["answer"])
    whole = answers.pop() if len(answers) == 1 else Answer.IN_PART if Answer.YES in answers else Answer.NO
    design = found.provenance["design"]
    evidence = (
        f"Held-out loss of {len(found.networks)} networks; learning rates tuned with "
        f"{plural(len(design['tuning_seeds']), 'seed')} of their own, from the same rates to choose from; "
        f"n={len(design['seeds'])} other seeds. Speed of the better asynchronous pipeline over the "
        f"best other choice, with its 95 % interval over seeds and rounds: {'; '.join(_lines(leads))}. "
        f"{_off(found.checks)}"
    )
    return Verdict(TITLE, whole, FASTER, evidence=(evidence,), details="; ".join(places))


@pipelines.value
def headline(time_to_loss: TimeToLoss | None) -> str:
    """The page's first line: where an asynchronous pipeline reaches the target first, and where it loses."""
    if time_to_loss is None:
        return ""
    places = time_to_loss.leads().groupby("place", sort=False)
    return " ".join(f"{_where(str(place))} {_won(mine)}." for place, mine in places)


@pipelines.value
def multiples(time_to_loss: TimeToLoss | None) -> list[str]:
    """How long the best asynchronous pipeline takes beside the best other choice, place by place."""
    if (found := time_to_loss) is None:
        return []
    said = []
    for place, mine in found.leads().groupby("place", sort=False):
        words = [f"{network_label(row.network)} {_first(row)}{_unsure(row, found.checks)}" for row in mine.itertuples()]
        said.append(f"{_where(str(place))}: {'; '.join(words)}.")
    return said


def _won(leads: pd.DataFrame) -> str:
    """For how many networks an asynchronous pipeline is first, and for how many it is not."""
    answers = [beside_one(row.low, row.high) for row in leads.itertuples()]
    words = _WORDS | {Answer.UNDECIDED: "not shown to differ"}
    counts = [f"{word} for {answers.count(answer)}" for answer, word in words.items() if answer in answers]
    return f"an asynchronous pipeline is, of {plural(len(answers), 'network')}, {listed(counts)}"


def _first(row: Any) -> str:
    """How long the better asynchronous pipeline takes beside the best other choice, which is named."""
    if not row.fastest:
        return "(none reached it)"
    times = f"{_ratio(1 / row.ratio)} (95 % interval {_ratio(1 / row.high)} to {_ratio(1 / row.low)})"
    return f"{times}, against {variant_style.label(row.peer)}"


def _unsure(row: Any, checks: pd.DataFrame) -> str:
    """That the best other choice missed the target when it was really trained."""
    missed = _missed(checks)
    there = row.fastest and row.place == ONE_HOST
    return " (which missed the target when really trained)" if there and row.peer in missed.get(row.network, ()) else ""


def _missed(checks: pd.DataFrame) -> dict[str, list[str]]:
    """Network -> choices whose one real training ended above the target."""
    above = checks[checks["loss"] > checks["target"]]
    return {str(network): list(mine["variant"]) for network, mine in above.groupby("network", sort=False)}


def _ratio(value: float) -> str:
    return "infinitely many" if np.isinf(value) else f"{value:.2f}"


def _where(place: str) -> str:
    return "On one host" if "host" in place else f"On two hosts with {place}"


def _counted(place: str, leads: pd.DataFrame) -> str:
    counts = leads["answer"].value_counts()
    return f"{place}: {listed(f'{_WORDS[answer]} {counts[answer]}' for answer in _WORDS if answer in counts)}"


def _times(row: Any) -> str:
    if not row.fastest:
        return "(neither reached the target)"
    if row.ratio in (0, np.inf):
        return f"(only {'the other one' if row.ratio == 0 else 'it'} reached the target in most trainings)"
    return f"{row.ratio:.2f}×, {row.low:.2f}–{row.high:.2f},"


def _lines(leads: pd.DataFrame) -> list[str]:
    return [
        f"{network_label(row.network)}, {row.place}: {variant_style.label(row.ours)} {_times(row)} over "
        f"{variant_style.label(row.peer)}"
        for row in leads.itertuples()
    ]


def _off(checks: pd.DataFrame) -> str:
    """How far the products are from trainings that were really made."""
    off = checks["seconds"] / checks["product"] - 1
    away = np.abs(checks["loss"] - checks["simulated_loss"])
    missed = _missed(checks)
    which = [
        f"{network_label(network)}: {'; '.join(map(variant_style.label, names))}" for network, names in missed.items()
    ]
    count = sum(map(len, missed.values()))
    return (
        "Seconds are updates times seconds per update; with two hosts nothing else was measured. On one host every "
        "choice was really trained once, for the updates that its simulation needed: of "
        f"{plural(len(checks), 'training')}, measured over computed seconds, less one, is "
        f"{percent(off.median(), '+.0f')} in the median ({span(off, lambda share: percent(share, '+.0f'))}), which can "
        f"be more than a lead above; losses differ from the simulated ones by {away.median():.2g} in the median and "
        f"{away.max():.2g} at most, because other ways to add up round otherwise, and {count} missed the target by it"
        f"{f' ({listed(which)})' if which else ''}."
    )


@pipelines.table("time_to_loss", when=_measured)
def seconds_table(time_to_loss: TimeToLoss) -> pd.DataFrame:
    """A row per network, place and choice: its rate, updates, seconds per update, and seconds to the target."""
    found = time_to_loss
    rates = found.tuned.set_index(["network", "strategy"])
    targets = {net["network"]: net["target"] for net in found.networks}
    shown, rows = found.summary(), []
    for (network, place), mine in shown.groupby(["network", "place"], sort=False):
        mine = mine.set_index("variant")
        for variant in variant_style.ordered(mine.index):
            row, rate = mine.loc[variant], rates.loc[(network, Variant.parse(variant).learns_as)]
            end = f" ({rate['at_end']} end)" if isinstance(rate["at_end"], str) and rate["at_end"] else ""
            text = (
                f"{row['seconds']:.2f} ({row['low']:.2f}–{row['high']:.2f})" if math.isfinite(row["seconds"]) else "–"
            )
            best = f"**{text}**" if variant == mine["seconds"].idxmin() else text
            cells = [place, network_label(network), f"{targets[network]:g}", variant_style.label(variant)]
            cells += [f"{rate['lr']:g}{end}", f"{row['reached']} of {row['n']}"]
            cells += [f"{row['updates']:g}" if math.isfinite(row["updates"]) else "–"]
            rows.append([*cells, f"{1e3 * row['seconds_per_update']:.1f}", best])
    head = ["place", "network", "target loss", "choice", "learning rate", "seeds that reach it", "updates, median"]
    return pd.DataFrame(rows, columns=[*head, "ms per update", "seconds to the target (95 % interval)"])


_ROW = 0.145  # inches


_SHORT = {"data parallel, ": "", " micro-batches": " parts"}


@pipelines.figure("time_to_loss", when=_measured)
def draw(time_to_loss: TimeToLoss) -> Figure:
    """Points are medians, lines their intervals; the fastest choice of a panel has a filled mark."""
    found, shown = time_to_loss, time_to_loss.summary()
    names = variant_style.ordered(shown["variant"])
    rows, columns = len(found.networks), len(found.places)
    height = 0.75 + rows * (0.42 + _ROW * len(names))
    figure, axes = style.canvas(height + 0.3, columns, rows, sharey=True)
    for i, net in enumerate(found.networks):
        mine = shown[shown["network"] == net["network"]]
        limits = _limits(mine)
        for j, place in enumerate(found.places):
            here = mine[mine["place"] == place].set_index("variant")
            _panel(axes[i, j], here, names, limits)
            where = place if place == ONE_HOST else f"two hosts, {place}"
            head = f"{network_label(net['network'])}, loss ≤ {net['target']:g}\n{where}"
            axes[i, j].set_title(f"{head}\nfastest: {_short(str(here['seconds'].idxmin()))}", fontsize=7, pad=3)
    axes[0, 0].set_yticks(range(len(names)), [_short(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    style.title(figure, "How long each training takes to a target loss")
    style.note(figure, _note(found))
    return figure


def _note(found: TimeToLoss) -> str:
    seeds = len(found.provenance["design"]["seeds"])
    rounds = found.provenance["options"]["rounds"]
    return (
        "seconds to the target loss (logarithmic)\n"
        f"medians with 95 % intervals, n={seeds} seeds, {rounds} rounds;\nfilled: fastest of the panel; "
        "parts: micro-batches"
    )


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Of the axis: all that is finite."""
    values = rows[["low", "high", "seconds"]].to_numpy()
    finite = values[np.isfinite(values)]
    return (finite.min() / 1.3, finite.max() * 1.3) if len(finite) else (0.1, 10.0)


def _panel(axis: Any, rows: pd.DataFrame, names: list[str], limits: tuple[float, float]) -> None:
    axis.set(xscale="log", xlim=limits)
    best = rows["seconds"].idxmin()
    for place, name in enumerate(names):
        if name not in rows.index or not math.isfinite(rows.loc[name, "seconds"]):
            words, at = "missed" if name in rows.index else "not tried", axis.get_yaxis_transform()
            axis.text(0.04, place, words, transform=at, fontsize=5.5, color="#777777", verticalalignment="center")
            continue
        row, color = rows.loc[name], variant_style.color(name)
        ends = [row["low"], min(row["high"], limits[1])]  # an interval without an end goes to the edge
        axis.plot(ends, [place, place], color=color, linewidth=1.4, marker="")
        face = {"markerfacecolor": color if name == best else "white", "markeredgecolor": color}
        axis.plot([row["seconds"]], [place], marker=variant_style.marker(name), markersize=4.5, zorder=3, **face)
    decades = math.log10(limits[1] / limits[0])
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (1, 3) if decades < 2.2 else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _short(name: str) -> str:
    text = variant_style.label(name)
    for long, short in _SHORT.items():
        text = text.replace(long, short)
    return text
