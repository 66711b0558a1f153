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


def test_the_design_tunes_with_other_seeds_than_it_confirms_with():
    assert len(DESIGN.networks) >= 3
    assert len(DESIGN.seeds) >= 5
    assert not set(DESIGN.seeds) & set(DESIGN.tuning_seeds)
    assert len({len(net.rates) for net in DESIGN.networks}) == 1
    assert all(net.batch_size % 4 == 0 and net.updates % net.every == 0 for net in DESIGN.networks)


def test_a_mistake_in_the_design_is_one_line(tmp_path, monkeypatch):
    broken = tmp_path / "design.yaml"
    broken.write_text(updates.DESIGN.read_text().replace("optimizer: sgd", "optimizer: sdg", 1))
    monkeypatch.setattr(updates, "DESIGN", broken)
    with pytest.raises(UserError, match=r"networks\.0\.optimizer is 'sdg'; give one of sgd, adamw"):
        Design.read()


@pytest.mark.parametrize("variant", ["plain", "ddp", "zero-bubble/2", "async/stash", "async/ema-span"])
def test_processes_come_to_the_loss_of_the_simulated_training(variant):
    simulated = losses(NET, Variant.parse(variant).learns_as, 0.05, 0, NET.target)
    job = Job(NET.config(0.05, 0), {1: (0,), 2: NET.starts})
    found = run_ranks(measure_training, 1 if variant == "plain" else 2, job, variant, 6, NET.held_out, timeout=120)
    assert len(simulated) == 2
    assert simulated[0] != simulated[1]
    assert [rank["loss"] for rank in found] == pytest.approx([simulated[-1]] * len(found), rel=1e-5)
    if variant.startswith("async"):
        assert simulated[-1] != pytest.approx(losses(NET, "sequential", 0.05, 0, NET.target)[-1], rel=1e-5)


def test_a_training_stops_at_its_target_and_one_that_misses_it_is_kept():
    first, last = losses(NET, "sequential", 0.05, 0, NET.target)
    assert losses(NET, "sequential", 0.05, 0, first) == [first]
    row = updates.run(NET.copy_with(target=first), "sequential", 0.05, 0, "tuning")
    assert (row["updates"], row["loss"]) == (3, first)
    row = updates.run(NET, "sequential", 0.05, 0, "tuning")
    assert (row["updates"], row["loss"]) == (None, last)


def test_every_choice_is_tuned_alike_and_the_best_average_confirmed(trained, tmp_path):
    net = DESIGN.networks[0].copy_with(rates=[0.001, 0.002, 0.004])
    design = DESIGN.copy_with(networks=[net])
    found, tuned = updates.train_all(design, tmp_path, 1)
    best = {row["strategy"]: (row["lr"], row["at_end"], row["missed"], row["chosen"]) for row in tuned}
    assert best == {
        "sequential": (0.004, "upper", 0, True),
        "stash": (0.002, "", 0, True),
        "ema-window": (0.002, "", 0, False),
        "ema-span": (0.002, "", 0, True),
    }
    tuning = [task for task in trained if task[-1] == "tuning"]
    assert len(tuning) == 4 * 3 * 2
    confirmed = [(strategy, lr) for _, strategy, lr, _, part in trained if part == "confirmation"]
    assert set(confirmed) == {("sequential", 0.004), ("stash", 0.002), ("ema-span", 0.002)}
    assert len(confirmed) == 3 * len(DESIGN.seeds)
    written = read_rows(tmp_path / "updates.csv")
    assert len(written) == len(found) == len(trained)
    assert [row["updates"] for row in written if row["strategy"] == "stash" and row["lr"] == "0.001"] == ["15", ""]
    assert read_rows(tmp_path / "tuned.csv")[0]["at_end"] == "upper"


def test_what_is_there_is_not_trained_again_unless_its_setting_changed(trained, tmp_path):
    net = DESIGN.networks[0].copy_with(rates=[0.002])
    design = DESIGN.copy_with(networks=[net])
    first, _ = updates.train_all(design, tmp_path, 1)
    trained.clear()
    assert updates.train_all(design, tmp_path, 1)[0] == first
    assert trained == []
    updates.train_all(design.copy_with(seeds=[*DESIGN.seeds, 77]), tmp_path, 1)
    assert [task[3:] for task in trained] == [(77, "confirmation")] * 3
    half = 4 * 2 + 3  # all of the tuning, and three seeds of the first choice
    (tmp_path / "updates.csv").write_text("".join((tmp_path / "updates.csv").read_text().splitlines(True)[: half + 1]))
    trained.clear()
    assert updates.train_all(design, tmp_path, 1)[0] == first  # it goes on where it was stopped
    assert len(trained) == len(first) - half
    trained.clear()
    updates.train_all(design.copy_with(networks=[net.copy_with(updates=1000)]), tmp_path, 1)
    assert trained == []  # all had reached their targets
    missed = (
        (tmp_path / "updates.csv").read_text().replace(f"confirmation,10,{net.updates}", f"confirmation,,{net.updates}")
    )
    (tmp_path / "updates.csv").write_text(missed)
    updates.train_all(design.copy_with(networks=[net.copy_with(updates=1000)]), tmp_path, 1)
    assert len(trained) == 2 * len(DESIGN.seeds)  # of stash and of the average
    trained.clear()
    updates.train_all(design.copy_with(networks=[net.copy_with(target=0.5)]), tmp_path, 1)
    assert len(trained) == len(first)


def test_every_choice_is_timed_in_every_round_at_every_place_and_trained_on_one_host(trained, tmp_path, monkeypatch):
    class Hosts:
        names = ("a", "b")

        def limit(self, gigabits):
            assert gigabits == 1

    @contextmanager
    def hosts(number):
        yield Hosts()

    def measured(work, ranks, job, variant, *arguments, places=()):
        assert ranks == (1 if variant in ("plain", "threads/2") else 2)
        assert places in ((), ("a", "b"))
        return [{"seconds": 0.5, "loss": 0.1}, {"seconds": 0.25, "loss": 0.1}][:ranks]

    monkeypatch.setattr(time_to_loss, "limited_hosts", hosts)
    for module in (measure, time_to_loss):
        monkeypatch.setattr(module, "run_ranks", measured)
    time_to_loss.main(f"--rounds 2 --out {tmp_path}".split())
    found = read_rows(tmp_path / "seconds.csv")
    choices = len(DESIGN.variants) + 1
    assert len(found) == 2 * len(DESIGN.networks) * (choices + choices - 2)
    assert {row["fills"] for row in found if row["variant"].startswith("async")} == {"1"}
    assert {row["fills"] for row in found if not row["variant"].startswith("async")} == {"0"}
    checks = read_rows(tmp_path / "checks.csv")
    assert len(checks) == len(DESIGN.networks) * choices  # on one host
    assert all(row["seconds"] == "0.5" and row["loss"] == "0.1" for row in checks)
    assert (tmp_path / "provenance.json").exists()


def test_the_part_of_updates_measures_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_loss, "limited_hosts", None)
    time_to_loss.main(f"updates --quick --out {tmp_path}".split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.csv", "updates.csv"]
