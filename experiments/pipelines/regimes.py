"""The regime map: which training is fastest, for wide networks and small ones, on one host and on two.

For every point of ``points.yaml``, times of all choices are predicted from times of the units in one process and from
measured bandwidths, and written to ``predicted.csv``. Then they are measured, round after round, in fresh processes;
the hosts are network namespaces (root only, else one host is all). Points that are ``held_out`` were added when the
model was finished. Run it on an idle machine. Examples:

  python -m experiments.pipelines.regimes --out results/pipelines/map
  python -m experiments.pipelines.regimes --quick
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from experiments.hosts import Namespaces, limited_hosts
from experiments.pipelines.measure import predictor, seconds_per_batch
from experiments.pipelines.processes import in_random_order, run_ranks, whereabouts
from experiments.pipelines.settings import check_choices, parse
from experiments.pipelines.trainers import Job
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.delays import aligned
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import Row, writable_folder, write_csv, write_json
from layerpipe2.lab.runs.validation import Checked, Positive, Several, setting
from layerpipe2.lab.runs.yaml_file import read_yaml
from layerpipe2.planning.machine import Machine, measured_link
from layerpipe2.planning.variants import Variant

POINTS = Path(__file__).with_name("points.yaml")
_POINT = ("network", "width", "batch_size")
_HELD_OUT = "held_out"
_PREDICTED = (*_POINT, _HELD_OUT, "parameter_bytes", "cut_bytes", "gigabits", "variant", "batches", "seconds")
_MEASURED = (*_POINT, "gigabits", "variant", "round", "seconds")
_PROCESSES = 2
_START = 0.4  # s that fresh processes take before the first mini-batch
_WARMUP = 2  # mini-batches; in the second one DDP regroups its buckets
_STASH = "stash"
_UNKNOWN = 0.05  # s per mini-batch, where nothing is predicted


class MapSettings(Checked):
    """What the map compares, and how often. Raises UserError naming the setting, its value and what is allowed."""

    variants: Several[str] = setting(
        ("plain", "threads/2", "ddp", "1f1b/4", "async/stash", "async/ema-window"), "", "choices on one host"
    )
    host_variants: Several[str] = setting(("ddp", "1f1b/4", "async/stash"), "", "choices of two hosts")
    gigabits: Annotated[tuple[Positive, ...], Field(strict=False)] = setting(
        (10.0, 1.0, 0.1), "", "Gbit/s between two hosts"
    )
    points: int = setting(1000, "", "at most so many points of the table", ge=1, le=1000)
    rounds: int = setting(5, "", "times that everything is measured", ge=1, le=1000)
    seconds: Positive = setting(0.08, "", "predicted seconds of a measurement, from which its mini-batches follow")
    layer_repeats: int = setting(9, "", "timed steps of each unit", ge=1, le=10_000)
    quick: bool = setting(False, "", "seconds instead of minutes: shows that it works, measures nothing")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        check_choices(self.variants)
        check_choices(self.host_variants, ("ddp", f"async/{_STASH}"))
        return self


QUICK = "--points 3 --rounds 1 --seconds 0.05 --layer-repeats 1"
"""The options of a run that only shows that everything works, where it isn't given others."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the map.

    Raises:
        UserError: on a mistake in an option, or if the folder can't be written.
    """
    parser = Parser(prog="python -m experiments.pipelines.regimes", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/pipelines/map"), help="default: %(default)s")
    settings, options = parse(parser, MapSettings, arguments, QUICK)
    out, where = writable_folder(options.out), whereabouts()
    with limited_hosts(_PROCESSES) as hosts:
        machines = _machines(hosts, settings)
        links = {f"{gigabits:g}": asdict(machine.link) for gigabits, machine in machines.items() if gigabits}
        where |= {"machine": asdict(machines[None]), "links": links, "options": dict(settings)}
        write_json(out / "provenance.json", where)
        predictions = predict(settings, machines)
        measured, part = out / "measured.csv", out / "measured.part.csv"
        measured.unlink(missing_ok=True)  # of an earlier run
        write_csv(out / "predicted.csv", _PREDICTED, [{k: row[k] for k in _PREDICTED} for row in predictions])
        minutes = settings.rounds * sum(map(_cost, predictions)) / 60
        print(f"{len(predictions)} choices predicted; {settings.rounds} rounds take about {minutes:.0f} minutes")
        rows: list[Row] = []
        for _, mine in groupby(predictions, key=lambda row: [row[key] for key in _POINT]):
            write_csv(part, _MEASURED, rows)  # to look at, should it be stopped
            rows += measure(list(mine), settings.rounds, hosts)
    write_csv(measured, _MEASURED, rows)
    part.unlink()
    print("\n".join(_table(predictions, rows)))


def points() -> list[dict[str, Any]]:
    """The points: network, width, batch_size, and whether nothing was measured there before the model had its form.

    Raises:
        UserError: if the table is broken, or one is there twice.
    """
    found: list[dict[str, Any]] = read_yaml(POINTS)["points"]
    places = [{key: point.get(key) for key in _POINT} for point in found]
    for point, place in zip(found, places, strict=True):
        if tuple(point) not in (_POINT, (*_POINT, _HELD_OUT)) or places.count(place) > 1:
            raise UserError(f"{POINTS}: point {point} must have {', '.join(_POINT)}, and be there once")
    return [{_HELD_OUT: False} | point for point in found]


def _machines(hosts: Namespaces | None, settings: MapSettings) -> dict[float | None, Machine]:
    """Gbit/s (None: one host) -> what was measured there."""
    one = Machine.measured(_PROCESSES, run_ranks)
    machines: dict[float | None, Machine] = {None: one}
    if hosts:
        for gigabits in settings.gigabits:
            hosts.limit(gigabits)
            machines[gigabits] = one.with_link(measured_link(partial(run_ranks, places=hosts.names)))
    return machines


def predict(settings: MapSettings, machines: dict[float | None, Machine]) -> list[Row]:
    """A row per point, place and choice: the columns of ``predicted.csv``, and the ``job``."""
    rows = []
    for point in points()[: settings.points]:
        config = RunConfig(schedule="constant", **{key: point[key] for key in _POINT})
        predicts = predictor(config, _PROCESSES, settings.layer_repeats, strategy=None)
        cut = predicts.cut(f"async/{_STASH}")  # whose activations the map's horizontal axis shows
        sizes = {"parameter_bytes": sum(unit.parameter_bytes for unit in cut.units)}
        sizes |= {"cut_bytes": cut.stages[0].output_bytes}
        for gigabits, machine in machines.items():
            for variant in settings.variants if gigabits is None else settings.host_variants:
                starts = predicts.cut(variant).starts
                job = Job(config, {len(starts): starts})
                work = {"job": job, "gigabits": gigabits, "variant": variant}
                times = _timed(predicts.seconds(variant, machine), variant, settings.seconds)
                rows.append(point | sizes | work | times)
    return rows


def _timed(period: float | None, variant: str, budget: float) -> Row:
    """How many mini-batches are measured in so many seconds, and the time predicted for each of them.

    An asynchronous pipeline fills and drains once: every process but the last one waits for the others then.
    """
    more = Variant.parse(variant).fills(_PROCESSES)
    batches = min(max(round(budget / (period or _UNKNOWN)), 10 if more else 3), 40)
    return {"batches": batches, "seconds": None if period is None else period * (batches + more) / batches}


def _cost(row: Row) -> float:
    return _START + (row["seconds"] or _UNKNOWN) * float(row["batches"] + _WARMUP)


def measure(predictions: Sequence[Row], rounds: int, hosts: Namespaces | None) -> Iterator[Row]:
    """Round after round, every choice of a point once, in random order: rows of ``measured.csv``."""
    for number, row in in_random_order(predictions, rounds, seed=" ".join(str(predictions[0][key]) for key in _POINT)):
        known = {key: row[key] for key in (*_POINT, "gigabits", "variant")}
        work = (row["batches"], _WARMUP)
        seconds = seconds_per_batch(row["job"], row["variant"], _PROCESSES, work, hosts, row["gigabits"])
        yield known | {"round": number, "seconds": seconds}


def _table(predictions: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    key = (*_POINT, "gigabits", "variant")
    cells: list[tuple[str, ...]] = [(*key, "predicted ms", "measured ms")]
    for row in predictions:
        same = [other["seconds"] for other in rows if all(other[name] == row[name] for name in key)]
        guess = "" if row["seconds"] is None else f"{1e3 * row['seconds']:.1f}"
        cells.append((*(str(row[name] or "") for name in key), guess, f"{1e3 * statistics.median(same):.1f}"))
    return aligned(cells)


if __name__ == "__main__":
    sys.exit(run_command("regimes", main, None))
