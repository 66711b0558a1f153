"""The regime map: its table of points, and what it predicts, measures and writes, in which order."""

import json
from contextlib import contextmanager

import pytest

from experiments.pipelines import profiles, regimes
from experiments.pipelines.trainers import build_units
from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.planning import StageWork, Work, measure
from layerpipe2.planning.machine import Machine
from tests.small_experiments import read_rows

CHOICES = 6


@contextmanager
def no_hosts(number):
    yield None


def test_the_points_span_weights_per_activation_and_kinds_of_networks():
    found, data = regimes.points(), load("digits")
    assert len(found) >= 12
    ratios = []
    for point in found:
        config = RunConfig(**{key: value for key, value in point.items() if key != "held_out"})
        works = measure(build_units(config, data), data.input_shape, point["batch_size"])
        ratios.append(sum(work.parameter_bytes for work in works) / works[len(works) // 2].input_bytes)
    assert min(ratios) < 0.2
    assert max(ratios) > 400
    sizes = {point["batch_size"] for point in found}
    assert (min(sizes), max(sizes)) == (8, 256)
    assert all(size % 4 == 0 for size in sizes)  # micro-batches of 1F1B
    assert {"mlp", "vit", "even"} < {point["network"] for point in found}
    assert sum(point["held_out"] for point in found) >= 4


POINT = "{network: mlp, width: 8, batch_size: 8"


@pytest.mark.parametrize(
    "text", ["{network: mlp, width: 8}", "{a: 1}", f"{POINT}}}, {POINT}, held_out: true}}", f"{POINT}, x: 1}}"]
)
def test_a_broken_table_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr(regimes, "POINTS", tmp_path / "points.yaml")
    regimes.POINTS.write_text(f"points: [{text}]")
    with pytest.raises(UserError, match=r"points\.yaml: point .* must have network, width, batch_size, and be there"):
        regimes.points()


def test_predictions_are_written_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    def measured(work, ranks, job, variant, batches, warmup, places=()):
        predictions = read_rows(tmp_path / "predicted.csv")
        assert len(predictions) == 2 * CHOICES
        done = (tmp_path / "measured.part.csv").read_text().splitlines()  # of the points before this one
        assert (done[0], len(done)) in ((",".join(regimes._MEASURED), 1 + n) for n in (0, 3 * CHOICES))
        assert not (tmp_path / "measured.csv").exists()
        (row,) = (r for r in predictions if r["network"] == job.config.network and r["variant"] == variant)
        assert (row["batches"], len(job.starts)) == (str(batches), 1)
        return [{"seconds": 0.5}, {"seconds": 0.25}][:ranks]

    def profiled(work, ranks, config, wanted, repeats):
        size = wanted[0] / wanted[-1]  # threads share it
        return [(StageWork(Work(size / 1000), Work(size / 500), Work(0.0), 100, 0, 4, 8),) * 9]

    (tmp_path / "measured.csv").write_text("an earlier run's")
    monkeypatch.setattr(Machine, "measured", lambda processes, run: Machine())
    monkeypatch.setattr(regimes, "limited_hosts", no_hosts)
    monkeypatch.setattr(profiles, "run_ranks", profiled)
    monkeypatch.setattr("experiments.pipelines.measure.run_ranks", measured)
    regimes.main(f"--points 2 --rounds 3 --seconds 0.5 --out {tmp_path}".split())
    first = {row["variant"]: row for row in read_rows(tmp_path / "predicted.csv")[:CHOICES]}
    assert [first["plain"][key] for key in ("parameter_bytes", "cut_bytes", "gigabits", "held_out")] == [
        "900",
        "8",
        "",
        "False",
    ]
    assert float(first["plain"]["seconds"]) == pytest.approx(9 * 0.024)
    # Five of nine units are the slower stage; ten mini-batches and one more to fill the pipeline.
    assert float(first["async/stash"]["seconds"]) == pytest.approx(5 * 0.024 * 11 / 10)
    assert {name: row["batches"] for name, row in first.items()}["async/stash"] == "10"
    assert first["plain"]["batches"] == "3"  # though they take 0.648 s
    found = read_rows(tmp_path / "measured.csv")
    assert len(found) == 2 * 3 * CHOICES
    assert [row["round"] for row in found[: 3 * CHOICES : CHOICES]] == ["0", "1", "2"]
    assert {row["variant"] for row in found[:CHOICES]} == set(first)
    assert {row["seconds"] for row in found} == {"0.5"}  # of the slowest rank
    assert json.loads((tmp_path / "provenance.json").read_text())["links"] == {}
    assert "measured.part.csv" not in {path.name for path in tmp_path.iterdir()}
    assert "12 choices predicted; 3 rounds take about 10 minutes" in capsys.readouterr().out


def test_hosts_have_their_link_before_they_are_measured(monkeypatch):
    done = []

    class Hosts:
        names = ("a", "b")

        def limit(self, gigabits):
            done.append(gigabits)

    def measured(*arguments, places):
        done.append(places)
        return [{"seconds": 1.0}]

    monkeypatch.setattr("experiments.pipelines.measure.run_ranks", measured)
    row = {"network": "mlp", "width": 8, "batch_size": 8, "variant": "ddp", "batches": 2, "job": None}
    places = [row | {"gigabits": gigabits} for gigabits in (None, 10.0, 0.1)]
    found = list(regimes.measure(places, 1, Hosts()))
    wanted = {None: [()], 10.0: [10.0, ("a", "b")], 0.1: [0.1, ("a", "b")]}
    assert done == [step for row in found for step in wanted[row["gigabits"]]]
    assert {row["gigabits"] for row in found} == set(wanted)
