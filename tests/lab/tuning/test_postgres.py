"""A study on several machines: a PostgreSQL server, and workers with folders of their own that are killed."""

import json
import os
import random
import signal
import time

import pytest

from layerpipe2.cli import main
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import fingerprint, read_record, write_record
from layerpipe2.lab.tuning.results import status
from layerpipe2.lab.tuning.storage import open_storage
from layerpipe2.lab.tuning.study import open_existing, work
from layerpipe2.lab.tuning.trial_locks import by_database
from tests.chaos.processes import ended, fork
from tests.lab.tuning.postgres import PASSWORD
from tests.lab.tuning.studies import made_up, outcome, runs_are, small_study
from tests.sampling import sampled


@pytest.fixture
def address(server, request):
    """A database of the test's own."""
    name = f"study_{abs(hash(request.node.name))}"
    server.run(f"CREATE DATABASE {name}")
    return server.address(name)


def slowly(seconds):
    """Made-up runs that take their time."""

    def train(trial, config, objectives):
        made = made_up(trial, config, objectives)
        time.sleep(seconds)
        return made

    return train


def work_in(folder, address):
    """What a machine does: take part until all is done; its exit code."""
    try:
        work([open_existing(folder, address)])
    except UserError as error:
        print(error)
        return 2
    return 0


@pytest.mark.parametrize(("kills", "trials"), sampled([(3, 12), (30, 90)], [(3, 12)]))
def test_killed_workers_lose_no_trial_and_count_none_twice(kills, trials, address, tmp_path, monkeypatch):
    chance, machines = random.Random(kills), [tmp_path / f"machine-{number}" for number in range(3)]
    small_study(tmp_path, trials=trials, url=address)
    with runs_are(slowly(0.1), monkeypatch):
        workers = {
            folder: fork(lambda folder=folder: work_in(folder, address), tmp_path / "said") for folder in machines
        }
        for _ in range(kills):
            time.sleep(chance.uniform(0.1, 0.6))
            folder = chance.choice(machines)
            os.kill(workers[folder], signal.SIGKILL)
            assert ended(workers[folder]) in (-signal.SIGKILL, 0)
            workers[folder] = fork(lambda folder=folder: work_in(folder, address), tmp_path / "said")
        assert [ended(worker) for worker in workers.values()] == [0, 0, 0]
    study = open_existing(tmp_path, address)
    found = study.trials()
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
    assert len(study.optuna_study.trials) == trials
    assert len({trial.params["lr"] for trial in found}) == trials
    for trial in found:
        record = json.loads(trial.user_attrs["record"])
        assert record["config"]["lr"] == trial.params["lr"]
        if trial.state.name == "COMPLETE":
            assert trial.values == [record["epochs"][-1]["val_accuracy"]]
        assert len(record["epochs"]) == len(trial.intermediate_values)
        write_record(tmp_path / "again.json", record)
        assert read_record(tmp_path / "again.json") == record
        kept = [folder / "trials" / f"{trial.number:05d}.json" for folder in machines]
        assert fingerprint(record) in [fingerprint(read_record(path)) for path in kept if path.is_file()]
    assert study.fetch_records() == trials
    assert status(study).finished == trials


def test_a_killed_owners_trial_is_free_at_once_and_a_living_ones_is_not(address, tmp_path, monkeypatch):
    study = small_study(tmp_path, trials=1, url=address)
    with runs_are(slowly(100), monkeypatch):
        owner = fork(lambda: work_in(tmp_path / "other", address), tmp_path / "said")
    while not study.trials()[0].intermediate_values:
        time.sleep(0.05)
    before = outcome(study)
    with runs_are(made_up, monkeypatch) as done:
        assert not study.do_one()
        assert status(study).counts == {"running": 1}
        os.kill(owner, signal.SIGKILL)
        ended(owner)
        while not study.do_one():
            time.sleep(0.05)
    assert done == [0]
    assert outcome(study)[0][2] == before[0][2]


def test_locks_are_given_back_and_end_with_a_machine_that_does_not_answer_for_a_minute(address, tmp_path):
    trial = small_study(tmp_path, url=address).trials()[0]
    storage = open_storage(tmp_path, address)
    lock = by_database(storage.engine)
    with lock(trial) as first, by_database(storage.engine)(trial) as second:
        assert (first, second) == (True, False)
    with lock(trial) as mine:
        assert mine
    for name, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
        with storage.engine.connect() as connection:
            assert connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar_one() == str(seconds)


@pytest.mark.parametrize("tries", sampled([2, 20], [2]))
def test_two_processes_make_a_new_databases_tables_at_once(tries, server, tmp_path):
    for number in range(tries):
        name = f"new_{tries}_{number}"
        server.run(f"CREATE DATABASE {name}")
        moment = time.time() + 0.1

        def at_once(name=name, moment=moment):
            time.sleep(max(0.0, moment - time.time()))
            small_study(tmp_path, trials=3, url=server.address(name))

        children = [fork(at_once, tmp_path / f"said-{i}") for i in range(2)]
        codes = [ended(child) for child in children]
        assert codes == [0, 0], [(tmp_path / f"said-{i}").read_text() for i in range(2)]
        assert status(open_existing(tmp_path, server.address(name))).counts == {"waiting": 3}
        server.run(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_server_that_stops_is_one_line_and_the_study_goes_on_when_it_is_back(
    server, address, tmp_path, monkeypatch, capsys
):
    study = small_study(tmp_path, trials=4, url=address)

    def stopped(trial, config, objectives):
        if trial.number == 2:
            server.stop()
        return made_up(trial, config, objectives)

    join = ["tune", "join", "--storage", address, "--out", str(tmp_path)]
    try:
        with runs_are(stopped, monkeypatch):
            assert main(join) == 2
    finally:
        server.start()
    said = capsys.readouterr().err
    assert said.startswith("layerpipe2: error: study study: ")
    assert said.endswith("; start the storage and give the same command again\n")
    assert said.count("\n") == 1
    assert PASSWORD not in said
    before = outcome(study)
    assert [row[1] for row in before][:2] == ["COMPLETE"] * 2
    with runs_are(made_up, monkeypatch) as done:
        assert main(join) == 0
    assert done == [2, 3]
    assert outcome(study)[:2] == before[:2]


@pytest.mark.parametrize("change", ["password", "database", "port", "host", "query"])
def test_a_storage_that_cannot_be_used_is_one_line_without_the_password(change, server, tmp_path, capsys):
    address = {
        "password": server.address(password="wr0ng"),
        "database": server.address("nowhere"),
        "port": server.address().replace(str(server.port), "1"),
        "host": server.address().replace("127.0.0.1", "host.invalid"),
        "query": f"postgresql://127.0.0.1:{server.port}/postgres?user=tuner&password=wr0ng",
    }[change]
    assert main(["tune", "--space", "lr=log:1e-3:1", "--storage", address, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("layerpipe2: error: storage postgresql://")
    assert said.endswith("start it or check its address\n")
    assert said.count("\n") == 1
    assert PASSWORD not in said
    assert "wr0ng" not in said


@pytest.mark.parametrize(
    "address", ["mysql://user:s3cret@host/x", "sqlite:///study.db", "study.db", "postgresql:/x", ""]
)
def test_other_storages_are_refused(address, tmp_path):
    with pytest.raises(
        UserError, match=r"storage is .*; give one like postgresql://user@host/name, or leave it"
    ) as told:
        open_storage(tmp_path, address)
    assert "s3cret" not in str(told.value)


def test_a_study_in_a_database_is_done_in_order_by_two(address, tmp_path, monkeypatch):
    settings = {"in_order": True, "trials": 5}
    with runs_are(made_up, monkeypatch):
        alone = small_study(tmp_path / "alone", **settings)
        work([alone])
        study = small_study(tmp_path, url=address, **settings)
        children = [fork(lambda i=i: work_in(tmp_path / str(i), address), tmp_path / "said") for i in range(2)]
        assert [ended(child) for child in children] == [0, 0]
    assert outcome(study) == outcome(alone)
