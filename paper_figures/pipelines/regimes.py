"""The regime map: times of every choice at every point and place, predicted and measured, and what they say."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layerpipe2.lab.runs.records import read_json
from layerpipe2.planning.variants import Variant
from paper_figures import style, variant_style
from paper_figures.pipelines.benchmark import pipelines
from paper_figures.read import one_line
from paper_figures.text import listed, network_label, percent, plural
from paper_figures.verdicts import AIM, FASTER, Verdict, everywhere

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
        return self._winners.copy()

    @cached_property
    def _winners(self) -> pd.DataFrame:
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
    with one_line(f"the map in {folder}", _REMEDY):
        provenance, predicted, measured = read_json(paths[0], _REMEDY), *map(pd.read_csv, paths[1:])
        for table, columns in ((predicted, _PREDICTED), (measured, _MEASURED)):
            if set(table.columns) != columns:
                raise ValueError(f"columns {', '.join(table.columns)}")
        return _read(provenance, predicted, measured)


def _read(provenance: dict[str, Any], predicted: pd.DataFrame, measured: pd.DataFrame) -> Regimes:
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


@pipelines.value
def regimes(folder: Path) -> Regimes | None:
    """The map, if one was measured."""
    return load(folder / "map")


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


def _measured(regimes: Regimes | None) -> bool:
    return regimes is not None


@pipelines.claim(place=2, when=_measured)
def fastest(regimes: Regimes) -> Verdict:
    """Whether an asynchronous pipeline is faster than all other choices of the map, place by place."""
    winners, lead = regimes.winners(), _lead(regimes)
    winners["kind"] = winners["fastest"].map(variant_style.group)
    winners["ours"] = (winners["kind"] == variant_style.OURS) & winners["decided"]
    counts, details, leads = [], [], []
    for place in regimes.places:
        mine, ratio = winners[winners["place"] == place], lead[place]
        counts.append(f"{place}: {listed(f'{kind} {n}' for kind, n in mine['kind'].value_counts().items())}")
        details.append(f"{place} {mine['ours'].sum()}")
        leads.append(f"{place} {ratio.median():.2f}× ({ratio.min():.2f}–{ratio.max():.2f})")
    text = (
        f"Of {len(lead)} points, by medians the fastest kind is: {'; '.join(counts)}. Speed of the faster asynchronous "
        f"pipeline over the fastest other choice that was measured, median and range over the points: "
        f"{'; '.join(leads)}. 'Faster' counts points at which one beat every other kind in every round."
    )
    said = f"faster at so many of {len(lead)} points: {', '.join(details)}"
    title = "Asynchronous pipelines against one process, threads, DDP and 1F1B"
    return Verdict(title, everywhere(winners["ours"]), FASTER, evidence=(text,), details=said)


def _lead(regimes: Regimes) -> pd.DataFrame:
    """By point and place, the speed of the faster asynchronous pipeline over that of the fastest other choice."""
    found = regimes.summary()
    found["ours"] = found["variant"].map(variant_style.group) == variant_style.OURS
    best = found.groupby([*POINT, "place", "ours"])["measured"].min().unstack("ours")
    return (best[False] / best[True]).unstack("place")


@pipelines.claim(place=3, when=_measured)
def foretold(regimes: Regimes) -> Verdict:
    """Whether the model names the fastest choice, what it costs to follow it, and how far its times are off."""
    winners, off = regimes.winners(), regimes.errors()["error"]
    kinds = winners[["fastest", "foretold"]].map(variant_style.group)
    kind = int((kinds["fastest"] == kinds["foretold"]).sum())
    close = [f"{(off.abs() <= share).sum()} are within {percent(share)}" for share in (0.1, 0.25)]
    simple = [f"always {variant_style.label(name)} {_cost(loss)}" for name, loss in regimes.rules().items()]
    loss, (best, known) = winners["loss"], regimes.hindsight()
    text = (
        "Written before anything was measured, from times of the layers in one process and measured bandwidths; no "
        "number of the model is fitted to the map, though its form was made with all points in view that are not held "
        f"out. The fastest choice is right at {_right(loss)}, its kind at {kind}. Time over that of the fastest "
        f"choice: as predicted {_cost(loss)}; {'; '.join(simple)} (with two hosts, one process stands for threads). "
        f"{_hindsight(best, known)} {_leads(winners)}{_held_out(winners, known)}Of "
        f"{plural(len(off), 'measured time')}, {listed(close)} of the prediction; measured over predicted, less one, "
        f"is {percent(off.median(), '+.0f')} in the median, and without its sign {percent(off.abs().median())}."
    )
    wrong = f"; a wrong choice takes {_cost(loss[loss > 0])} as long as the fastest" if (loss > 0).any() else ""
    details = f"right at {_right(loss)}{wrong}"
    return Verdict("Predicted fastest choice", everywhere(loss == 0), AIM, evidence=(text,), details=details)


def _right(loss: pd.Series) -> str:
    return f"{(loss == 0).sum()} of {len(loss)} points and places, within {percent(CLOSE)} at {(loss <= CLOSE).sum()}"


def _cost(loss: pd.Series) -> str:
    return f"{1 + loss.mean():.2f}× on average and {1 + loss.max():.2f}× at most"


def _hindsight(best: dict[str, str], loss: pd.Series) -> str:
    """What the best rule of each place would have cost, which nobody knows before."""
    rule = "; ".join(f"{place}: always {variant_style.label(name)}" for place, name in best.items())
    return f"The best rule of each place, known only afterwards ({rule}), is right at {_right(loss)}: {_cost(loss)}."


def _leads(winners: pd.DataFrame) -> str:
    """Whether a large predicted lead is safer than a small one."""
    wrong, clear = winners["loss"] > 0, winners["lead"] > CLOSE
    shares = [
        f"{(wrong & chosen).sum()} of {chosen.sum()} choices whose predicted lead is {words} {percent(CLOSE)}"
        for chosen, words in ((clear, "more than"), (~clear, "at most"))
        if chosen.any()
    ]
    return f"The prediction is wrong in {listed(shares)}. "


def _held_out(winners: pd.DataFrame, known: pd.Series) -> str:
    """A sentence on the points that are held out, if there are any; ``known``: what the best rules cost."""
    held = winners[winners["held_out"]]
    if held.empty:
        return ""
    loss, known = held["loss"], known[winners["held_out"].to_numpy()]
    points = plural(len(held[POINT].drop_duplicates()), "point")
    where = f"Of the {points} that are held out, of which nothing had been measured before, each at all places"
    return f"{where}, it is right at {_right(loss)}, with {_cost(loss)} (the best rule of each place: {_cost(known)}). "


@pipelines.table("regimes", when=_measured)
def speed_table(regimes: Regimes) -> pd.DataFrame:
    """A row per place and point: sizes, and every choice's speed over one process, the fastest one's in bold."""
    found, names = regimes.summary(), variant_style.ordered(regimes.choices["variant"])
    winners, rows = regimes.winners().set_index([*POINT, "place"]), []
    for place in regimes.places:
        for point, mine in found[found["place"] == place].groupby(POINT, sort=False):
            mine, winner = mine.set_index("variant"), winners.loc[(*point, place)]
            network, width, batch = point
            cells = [place, f"{network_label(network)}, width {width}", str(batch)]
            cells += [f"{mine[key].iloc[0] / 1e6:.2f}" for key in ("parameter_bytes", "cut_bytes")]
            cells += [f"{1e3 * winner['step']:.1f}"]
            for name in names[1:]:
                text = f"{mine.loc[name, 'speed']:.2f}×" if name in mine.index else "–"
                cells.append(f"**{text}**" if name == winner["fastest"] else text)
            rows.append([*cells, variant_style.label(winner["foretold"])])
    head = ["place", "network", "mini-batch", "weights (MB)", "activations at the cut (MB)", "one process (ms)"]
    return pd.DataFrame(rows, columns=[*head, *map(variant_style.label, names[1:]), "predicted fastest"])


@pipelines.table("regime_rules", when=_measured)
def rule_table(regimes: Regimes) -> pd.DataFrame:
    """What it costs to follow the prediction, or a rule: by place, everywhere, and at the points held out."""
    winners = regimes.winners()
    losses = {"the predicted fastest": winners["loss"]}
    losses |= {"the best rule of each place, known afterwards": regimes.hindsight()[1]}
    losses |= {f"always {variant_style.label(name)}": loss for name, loss in regimes.rules().items()}
    parts = {place: winners["place"] == place for place in regimes.places}
    parts |= {"everywhere": winners["held_out"] | True, "held out": winners["held_out"]}
    rows = []
    for name, loss in losses.items():
        chosen = [loss[part.to_numpy()] for part in parts.values()]
        cells = [f"{(one == 0).sum()}/{len(one)}, {1 + one.mean():.2f}×" if len(one) else "–" for one in chosen]
        rows.append([name, *cells, f"{1 + loss.max():.2f}×"])
    return pd.DataFrame(rows, columns=["choice", *parts, "at most"])


@pipelines.table("regime_errors", when=_measured)
def error_table(regimes: Regimes) -> pd.DataFrame:
    """Measured over predicted time, less one, by choice and place: the median over the points, and the ends."""
    found, rows = regimes.errors(), []
    for name in variant_style.ordered(found["variant"]):
        cells = [variant_style.label(name)]
        for place in regimes.places:
            values = found[(found["variant"] == name) & (found["place"] == place)]["error"]
            ends = f" ({percent(values.min(), '+.0f')} to {percent(values.max(), '+.0f')})" if len(values) else ""
            cells.append(f"{percent(values.median(), '+.0f')}{ends}" if len(values) else "–")
        rows.append(cells)
    return pd.DataFrame(rows, columns=["measured over predicted time, less one", *regimes.places])


_DDP: dict[str, Any] = {"facecolor": variant_style.color("ddp"), "linewidth": 0, "alpha": 0.15}


_PIPELINE: dict[str, Any] = {"facecolor": "none", "edgecolor": "#bbbbbb", "linewidth": 0, "hatch": "////"}


_MARK: dict[str, Any] = {"markersize": 6.5, "markeredgewidth": 1.2, "linestyle": ""}


_HOLLOW = _MARK | {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#444444"}


@pipelines.figure("regimes", when=_measured)
def draw(regimes: Regimes) -> Figure:
    """A panel per place: traffic of a pipeline to the right, that of data parallel training up, a mark per point.

    Shaded is where the link alone makes a choice slower than one process of step time T: data parallel training, whose
    half of the work takes T / 2, from ``P / bandwidth = T / 2`` on; a pipeline from ``A / bandwidth = T`` on, for bytes
    of weights P and of activations at the cut A.
    """
    found, winners = regimes, regimes.winners()
    x, y = winners["cut_bytes"] / winners["step"] / 1e6, winners["parameter_bytes"] / winners["step"] / 1e6
    limits = [(values.min() / 2, values.max() * 2) for values in (x, y)]
    columns = min(len(found.places), 2)
    rows = -(-len(found.places) // columns)
    figure, axes = style.canvas(
        0.9 + 1.75 * rows, columns, rows, len(found.places), width=style.SINGLE, sharex=True, sharey=True
    )
    for place, axis in zip(found.places, axes.flat, strict=False):
        axis.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
        axis.minorticks_off()
        axis.set_title(place if place == ONE_HOST else f"two hosts, {place}", pad=3)
        _shade(axis, found.bandwidth(place) / 1e6, found.neighbours_bandwidth(place) / 1e6, limits)
        _draw(axis, winners.assign(x=x, y=y)[winners["place"] == place])
    figure.supxlabel("activations at the cut (MB per s of one process)", fontsize=8)
    figure.supylabel("weights (MB per s of one process)", fontsize=8)
    names = variant_style.ordered(winners["fastest"])
    handles: list[Any] = [style.handle(variant_style.label(name), **_look(name, decided=True)) for name in names]
    handles += [style.handle(f"hollow: not in all {found.rounds_of_each} rounds", **_HOLLOW)]
    handles += [Patch(label="link too slow for DDP", **_DDP), Patch(label="link too slow for a pipeline", **_PIPELINE)]
    style.legend(figure, handles, columns=2)
    return figure


def _shade(axis: Any, bandwidth: float, neighbours: float, limits: list[tuple[float, float]]) -> None:
    """From these MB/s on the link makes either slower than one process."""
    (_, right), (_, top) = limits
    axis.axhspan(min(bandwidth / 2, top), top, zorder=0, **_DDP)
    axis.axvspan(min(neighbours, right), right, zorder=0, **_PIPELINE)


def _draw(axis: Any, points: pd.DataFrame) -> None:
    for row in points.itertuples():
        axis.plot([row.x], [row.y], zorder=3, clip_on=False, **_look(str(row.fastest), decided=bool(row.decided)))


def _look(name: str, *, decided: bool) -> dict[str, Any]:
    """Filled, or hollow where another kind was as fast in some round."""
    color = variant_style.color(name)
    face = {"markerfacecolor": color if decided else "white", "markeredgecolor": color}
    return _MARK | face | {"marker": variant_style.marker(name)}
