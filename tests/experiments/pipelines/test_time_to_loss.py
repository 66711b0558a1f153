"""Time to a loss: its design, tuning with equal budgets, resumption, and simulated updates against real processes."""

from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from experiments.pipelines import measure, time_to_loss, updates
from experiments.pipelines.measure import measure_training
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.trainers import Job
from experiments.pipelines.updates import Design, losses
from layerpipe2.errors import UserError
from layerpipe2.planning.variants import Variant
from tests.experiments.pipelines.peer_work import several
from tests.experiments.pipelines.test_regimes import Hosts
from tests.small_experiments import read_rows

DESIGN = Design.read()
NET = DESIGN.networks[1].copy_with(width=4, updates=6, every=3, held_out=16, target=1e-9)


class Inline:
    """A pool that trains at once, and notes what."""

    def __init__(self, done):
        self.done = done

    def submit(self, work, *task):
        self.done.append(task)
        future = Future()
        future.set_result(work(*task))
        return future


@pytest.fixture
def trained(monkeypatch):
    """The tasks that are trained; a training reaches its target sooner the nearer its rate is to the best."""
    done = []

    @contextmanager
    def inline(jobs):
        yield Inline(done)

    def made(net, strategy, lr, seed, target):
        steps = 2 + round(abs(lr - (0.004 if strategy == "sequential" else 0.002)) * 1000) + (strategy == "ema-window")
        return [9.0] * (steps - 1) + [9.0 if strategy == "stash" and seed == 101 and lr < 0.002 else target]

    monkeypatch.setattr(updates, "workers", inline)
    monkeypatch.setattr(updates, "losses", made)
    return done


def test_the_design_tunes_with_other_seeds_than_it_confirms_with(tmp_path, monkeypatch):
    assert len(DESIGN.networks) >= 3
    assert len(DESIGN.seeds) >= 5
    assert not set(DESIGN.seeds) & set(DESIGN.tuning_seeds)
    assert len({len(net.rates) for net in DESIGN.networks}) == 1
    assert all(net.batch_size % 4 == 0 and net.updates % net.every == 0 for net in DESIGN.networks)
    broken = tmp_path / "design.yaml"
    broken.write_text(updates.DESIGN.read_text().replace("optimizer: sgd", "optimizer: sdg", 1))
    monkeypatch.setattr(updates, "DESIGN", broken)
    with pytest.raises(UserError, match=r"networks\.0\.optimizer is 'sdg'; give one of sgd, adamw"):
        Design.read()


def test_processes_come_to_the_loss_of_the_simulated_training():
    job, rest = Job(NET.config(0.05, 0), {1: (0,), 2: NET.starts}), (6, NET.held_out)
    simulated = {name: losses(NET, name, 0.05, 0, NET.target) for name in ("sequential", "stash", "ema-span")}
    assert all(len(curve) == 2 and curve[0] != curve[1] for curve in simulated.values())
    assert len({round(curve[-1], 5) for curve in simulated.values()}) == 3
    for ranks, variants in ((1, ["plain"]), (2, ["ddp", "zero-bubble/2", "async/stash", "async/ema-span"])):
        calls = [(measure_training, job, variant, *rest) for variant in variants]
        for rank in run_ranks(several, ranks, calls, timeout=120):
            found = {variant: one["loss"] for variant, one in zip(variants, rank, strict=True)}
            assert found == pytest.approx({v: simulated[Variant.parse(v).learns_as][-1] for v in variants}, rel=1e-5)


def test_a_training_stops_at_its_target_and_one_that_misses_it_is_kept():
    first, last = losses(NET, "sequential", 0.05, 0, NET.target)
    row = updates.run(NET.copy_with(target=first), "sequential", 0.05, 0, "tuning")
    assert (row["updates"], row["loss"]) == (3, first)
    row = updates.run(NET, "sequential", 0.05, 0, "tuning")
    assert (row["updates"], row["loss"]) == (None, last)


def test_every_choice_is_tuned_alike_and_the_best_average_confirmed(trained, tmp_path):
    design = DESIGN.copy_with(networks=[DESIGN.networks[0].copy_with(rates=[0.001, 0.002, 0.004])])
    found, tuned = updates.train_all(design, tmp_path, 1)
    best = {row["strategy"]: (row["lr"], row["at_end"], row["missed"], row["chosen"]) for row in tuned}
    assert best == {
        "sequential": (0.004, "upper", 0, True),
        "stash": (0.002, "", 0, True),
        "ema-window": (0.002, "", 0, False),
        "ema-span": (0.002, "", 0, True),
    }
    assert len([task for task in trained if task[-1] == "tuning"]) == 4 * 3 * 2
    confirmed = [(strategy, lr) for _, strategy, lr, _, part in trained if part == "confirmation"]
    assert set(confirmed) == {("sequential", 0.004), ("stash", 0.002), ("ema-span", 0.002)}
    assert len(confirmed) == 3 * len(DESIGN.seeds)
    written = read_rows(tmp_path / "updates.csv")
    assert len(written) == len(found) == len(trained)
    assert [row["updates"] for row in written if row["strategy"] == "stash" and row["lr"] == "0.001"] == ["15", ""]
    assert read_rows(tmp_path / "tuned.csv")[0]["at_end"] == "upper"


def test_what_is_there_is_not_trained_again_unless_its_setting_changed(trained, tmp_path):
    net, file = DESIGN.networks[0].copy_with(rates=[0.002]), tmp_path / "updates.csv"
    design = DESIGN.copy_with(networks=[net])

    def again(**changes):
        trained.clear()
        return updates.train_all(design.copy_with(**changes), tmp_path, 1)[0], len(trained)

    first, number = again()
    assert again() == (first, 0)
    assert again(seeds=[*DESIGN.seeds, 77])[1] == 3
    half = 4 * 2 + 3  # all of the tuning, and three seeds of the first choice
    file.write_text("".join(file.read_text().splitlines(True)[: half + 1]))
    assert again() == (first, number - half)  # it goes on where it was stopped
    more = [net.copy_with(updates=1000)]
    assert again(networks=more)[1] == 0  # all had reached their targets
    missed = file.read_text().replace(f"confirmation,10,{net.updates}", f"confirmation,,{net.updates}")
    file.write_text(missed)
    assert again(networks=more)[1] == 2 * len(DESIGN.seeds)  # of stash and of the average
    assert again(networks=[net.copy_with(target=0.5)])[1] == number


def test_every_choice_is_timed_in_every_round_at_every_place_and_trained_on_one_host(trained, tmp_path, monkeypatch):
    hosts = Hosts()

    @contextmanager
    def two_hosts(number):
        yield hosts

    def measured(work, ranks, job, variant, *arguments, places=()):
        assert ranks == (1 if variant in ("plain", "threads/2") else 2)
        assert places in ((), ("a", "b"))
        return [{"seconds": 0.5, "loss": 0.1}, {"seconds": 0.25, "loss": 0.1}][:ranks]

    monkeypatch.setattr(time_to_loss, "limited_hosts", two_hosts)
    for module in (measure, time_to_loss):
        monkeypatch.setattr(module, "run_ranks", measured)
    time_to_loss.main(f"--rounds 2 --out {tmp_path}".split())
    assert set(hosts.done) == {1}
    found, choices = read_rows(tmp_path / "seconds.csv"), len(DESIGN.variants) + 1
    assert len(found) == 2 * len(DESIGN.networks) * (choices + choices - 2)
    assert all(row["fills"] == str(int(row["variant"].startswith("async"))) for row in found)
    checks = read_rows(tmp_path / "checks.csv")
    assert len(checks) == len(DESIGN.networks) * choices  # on one host
    assert all(row["seconds"] == "0.5" and row["loss"] == "0.1" for row in checks)
    assert (tmp_path / "provenance.json").exists()


def test_the_part_of_updates_measures_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_loss, "limited_hosts", None)
    time_to_loss.main(f"updates --quick --out {tmp_path}".split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.csv", "updates.csv"]
