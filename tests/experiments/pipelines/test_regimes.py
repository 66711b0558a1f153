"""The regime map: its table of points, and what it predicts, measures and writes, in which order."""

import json
from contextlib import contextmanager

import pytest

from experiments.pipelines import regimes
from experiments.pipelines.measure import measure_layers
from layerpipe2.errors import UserError
from layerpipe2.planning import StageWork, Work
from layerpipe2.planning.machine import Machine
from tests.small_experiments import ROOT, read_rows

CHOICES = 6


def test_the_points_span_weights_per_activation_and_kinds_of_networks_and_some_are_held_out():
    found = regimes.points()
    known = read_rows(ROOT / "results" / "pipelines" / "map" / "predicted.csv")
    ratios = [float(row["parameter_bytes"]) / float(row["cut_bytes"]) for row in known]
    assert len(found) >= 12
    assert (min(ratios) < 0.2, max(ratios) > 400) == (True, True)
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


class Hosts:
    """Two hosts, and what was done with them."""

    names = ("a", "b")

    def __init__(self):
        self.done = []

    def limit(self, gigabits):
        self.done.append(gigabits)


@contextmanager
def no_hosts(number):
    yield None


def test_predictions_are_written_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    def ran(work, ranks, config, *arguments, places=()):
        if work is measure_layers:
            size, *_, threads = arguments[0]  # threads share it
            of_size = [Work(size / threads / share) for share in (1000, 500)]
            return [(StageWork(*of_size, Work(0.0), 100, 0, 4, 8),) * 9]
        predictions = read_rows(tmp_path / "predicted.csv")
        assert len(predictions) == 2 * CHOICES
        done = (tmp_path / "measured.part.csv").read_text().splitlines()  # of the points before this one
        assert len(done) in (1, 1 + 3 * CHOICES)
        assert not (tmp_path / "measured.csv").exists()
        variant, batches, _ = arguments
        (row,) = (r for r in predictions if r["network"] == config.config.network and r["variant"] == variant)
        assert (row["batches"], len(config.starts)) == (str(batches), 1)
        return [{"seconds": 0.5}, {"seconds": 0.25}][:ranks]

    (tmp_path / "measured.csv").write_text("an earlier run's")
    monkeypatch.setattr(Machine, "measured", lambda processes, run: Machine())
    monkeypatch.setattr(regimes, "limited_hosts", no_hosts)
    monkeypatch.setattr("experiments.pipelines.measure.run_ranks", ran)
    regimes.main(f"--points 2 --rounds 3 --seconds 0.5 --out {tmp_path}".split())
    first = {row["variant"]: row for row in read_rows(tmp_path / "predicted.csv")[:CHOICES]}
    shown = [first["plain"][key] for key in ("parameter_bytes", "cut_bytes", "gigabits", "held_out")]
    assert shown == ["900", "8", "", "False"]
    assert float(first["plain"]["seconds"]) == pytest.approx(9 * 0.024)
    # Five of nine units are the slower stage; ten mini-batches and one more to fill the pipeline.
    assert float(first["async/stash"]["seconds"]) == pytest.approx(5 * 0.024 * 11 / 10)
    assert [first[name]["batches"] for name in ("async/stash", "plain")] == ["10", "3"]  # though these take 0.648 s
    assert len(found := read_rows(tmp_path / "measured.csv")) == 2 * 3 * CHOICES
    assert [row["round"] for row in found[: 3 * CHOICES : CHOICES]] == ["0", "1", "2"]
    assert {row["variant"] for row in found[:CHOICES]} == set(first)
    assert {row["seconds"] for row in found} == {"0.5"}  # of the slowest rank
    assert json.loads((tmp_path / "provenance.json").read_text())["links"] == {}
    assert "12 choices predicted; 3 rounds take about 10 minutes" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["measured.csv", "predicted.csv", "provenance.json"]


def test_hosts_have_their_link_before_they_are_measured(monkeypatch):
    hosts = Hosts()

    def ran(*arguments, places):
        hosts.done.append(places)
        return [{"seconds": 1.0}]

    monkeypatch.setattr("experiments.pipelines.measure.run_ranks", ran)
    row = {"network": "mlp", "width": 8, "batch_size": 8, "variant": "ddp", "batches": 2, "job": None}
    places = [row | {"gigabits": gigabits} for gigabits in (None, 10.0, 0.1)]
    found = list(regimes.measure(places, 1, hosts))
    wanted = {None: [()], 10.0: [10.0, ("a", "b")], 0.1: [0.1, ("a", "b")]}
    assert hosts.done == [step for row in found for step in wanted[row["gigabits"]]]
    assert {row["gigabits"] for row in found} == set(wanted)
