"""Copies of records in MLflow: seeds below cells, once each, replaced by their reruns, whole or made again."""

import json
import shutil
from copy import deepcopy
from math import nan
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState, create_trial

from experiments import track as tracking
from experiments.accuracy.tables import run_rows
from experiments.track import LISTS, link
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.looks import look
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record, write_record
from layerpipe2.lab.tracking.description import FINAL
from layerpipe2.lab.tuning.results import best_trials
from layerpipe2.lab.tuning.trial import tell_arguments
from paper_figures.accuracy.assay import Assay
from paper_figures.accuracy.runs import accuracy
from paper_figures.records import Records
from tests.chaos.processes import ended, fork
from tests.made_records import record
from tests.sampling import slow
from tests.small_experiments import ROOT


@pytest.fixture
def place(tmp_path):
    return tmp_path / "mlflow.db", tmp_path / "artifacts"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database without runs, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("empty")
    tracking.track([], folder / "mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def copied(place, tmp_path, empty):
    """Copies records, path below ``runs`` or ``tune`` -> record, which are all there are; how many were new.

    ``report`` is what the experiment demands; None: it has not been collected.
    """
    shutil.copyfile(empty, place[0])

    def copy(records, report=None):
        for old in tmp_path.glob("experiment/*/*.json"):
            old.unlink()
        for name, made in records.items():
            write_record(tmp_path / "experiment" / f"{name}.json", made)
        found = {path: read_record(path) for path in sorted((tmp_path / "experiment").rglob("*.json"))}
        about = {} if report is None else {"report": report}
        pages = tmp_path / "pages"
        source = tracking.Source("digits", tmp_path / "experiment", found, pages, pages, about)
        return tracking.track([source], *place)[0]

    return copy


def client_of(place):
    return MlflowClient(f"sqlite:///{place[0]}")


def _runs(place, name="digits", kind=None):
    """Runs of an experiment by name, those of a kind as a link of MLflow finds them."""
    client = client_of(place)
    experiment = client.get_experiment_by_name(f"layerpipe2/{name}")
    found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'" if kind else "", max_results=5000)
    return {run.info.run_name: run for run in found}


def _points(place, run, metric):
    history = client_of(place).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def _artifact(place, run, name):
    return Path(client_of(place).download_artifacts(run.info.run_id, name))


CELL = ["network", "dataset", "optimizer", "momentum", "convention", "num_stages"]
CELLS = {
    f"runs/{strategy}-s{seed}": record(strategy, seed)
    for strategy in ("stash", "latest", "ema-window")
    for seed in range(3)
}
for seed in range(3):  # stash 80, 85, 90; latest and the rule 20 and 5 less
    CELLS[f"runs/latest-s{seed}"]["test"]["accuracy"] -= 0.2
    CELLS[f"runs/ema-window-s{seed}"]["test"]["accuracy"] -= 0.05


POINTS = {"equivalence_margin_points": 1.0, "significance_level": 0.05, "image_guard": False}
NATS = POINTS | {"equivalence_margin_nats": 0.02, "guess_nats": {"digits": 2.0}}


def won_back(place):
    cells = _runs(place, kind="cell")
    return {name: run.data.metrics["won_back"] for name, run in cells.items() if "won_back" in run.data.metrics}


def test_a_run_is_copied_whole_below_its_cell_which_has_the_means(place, copied):
    assert copied(CELLS, POINTS) == 9
    assert copied(CELLS, POINTS) == 0
    assert set(_runs(place, kind="cell")) == {"stash x3", "latest x3", "ema-window x3"}
    run, cell, stash = (_runs(place)[name] for name in ("ema-window x3 s1", "ema-window x3", "stash x3 s0"))
    assert {found.info.status for found in _runs(place).values()} == {"FINISHED"}
    assert run.data.tags["mlflow.parentRunId"] == cell.info.run_id
    assert run.data.params == {"strategy": "ema-window", "seed": "1", "stages": "3", "cell": "ema-window x3"}
    assert (run.data.metrics["final/test_accuracy"], run.data.metrics["best/val_accuracy"]) == (80, 75)
    assert _points(place, run, "epoch/val_accuracy") == [(0, 50), (1, 75)]
    assert (run.info.start_time, run.info.end_time) == (1767225600000, 1767225602000)  # 2026-01-01 UTC, two seconds
    expected = {"strategy": "ema-window", "stages": "3", "delays": "4 2 0", "delay_law": "layerpipe2", "phase": "final"}
    expected |= {"experiment": "digits", "commit": "0123abc", "device": "cpu", "dataset": "digits", "kind": "seed"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.runColor"] == look("ema-window").colour == cell.data.tags["mlflow.runColor"]
    assert read_record(_artifact(place, run, "record.json")) == CELLS["runs/ema-window-s1"]
    # What was measured of weights is a table and no metric.
    assert stash.data.tags["probed"] == "true"
    assert not [name for name in stash.data.metrics if "reconstruction" in name]
    lines = _artifact(place, stash, "reconstruction.csv").read_text().split()
    assert lines == ["stage,delay,strategy,relative_error,n", "0,4,ema-window,0.25,7"]
    means = cell.data.metrics
    assert (means["final/test_accuracy"], means["sd/test_accuracy"], means["n/seeds"]) == (80, 5, 3)
    assert won_back(place) == {"ema-window x3": 75}
    assert _points(place, cell, "epoch/val_accuracy") == [(0, 50), (1, 75)]
    assert "seed" not in cell.data.params
    copied(CELLS)  # what it demands isn't known any more
    assert won_back(place) == {}


def test_the_share_won_back_is_the_reports_also_where_losses_are_judged(place, copied):
    """By accuracy the rule would win back 75 per cent."""
    runs = deepcopy(CELLS)
    for made in runs.values():
        strategy, seed = made["config"]["strategy"], made["config"]["seed"]
        made["test"]["loss"] = {"stash": 1.30, "latest": 1.40, "ema-window": 1.38}[strategy] + seed / 1000
    copied(runs, NATS)
    table = pd.DataFrame([row for made in runs.values() for row in run_rows(made | {"rate": "one"})])
    rules = Assay.of(table, ComparisonSettings.of({"report": NATS})).rules
    (share,) = rules.loc[rules["strategy"] == "ema-window", "share"]
    assert won_back(place) == {"ema-window x3": round(100 * share, 1)} == {"ema-window x3": 20}
    copied(runs, NATS | {"equivalence_margin_nats": 0.2})
    assert won_back(place) == {}  # as in the report: the latest weights aren't shown to lose so much


def test_a_diverged_run_is_a_finished_copy_without_a_result(place, copied):
    copied({"runs/a": record("latest", diverged=True), "runs/b": record("latest", 1)})
    run, cell = (_runs(place)[name] for name in ("latest x3 s0", "latest x3"))
    assert (run.info.status, run.data.tags["status"], run.data.tags["diverged_epoch"]) == ("FINISHED", "diverged", "0")
    assert "final/test_accuracy" not in run.data.metrics
    assert (cell.data.metrics["n/seeds"], cell.data.metrics["n/with_result"]) == (2, 1)
    assert _points(place, cell, "epoch/val_accuracy") == [(0, 50)]  # a mean curve ends where its first run does


def test_a_rerun_replaces_its_copy_and_other_times_alone_are_no_change(place, copied):
    first, second = record("latest", 0), record("latest", 0)
    copied({"runs/a": first})
    second["provenance"]["wall_time_s"] = 99.0
    assert copied({"runs/a": second}) == 0
    second["test"]["accuracy"] = 0.5
    assert copied({"runs/a": second}) == 1
    assert _runs(place)["latest x3 s0"].data.metrics["final/test_accuracy"] == 50
    assert copied({"runs/a": record("latest", 0, lr=0.5)}) == 1  # of another cell, in the same file
    assert len(_runs(place)) == 2


def test_unchanged_runs_stay_when_their_cell_changes_or_another_record_goes(place, copied):
    records = {f"runs/{name}-{seed}": record(name, seed) for name in ("latest", "stash") for seed in range(3)}
    assert copied(records) == 6
    before = _runs(place)
    second, _ = records.pop("runs/stash-2"), records.pop("runs/latest-2")
    assert copied(records) == 0
    after = _runs(place)
    assert set(before) - set(after) == {"stash x3 s2", "latest x3 s2"}
    run, cell = after["stash x3 s0"], after["stash x3"]
    assert run.info.run_id == before["stash x3 s0"].info.run_id
    assert run.data.tags["mlflow.parentRunId"] == cell.info.run_id
    assert (before["stash x3"].data.metrics["n/seeds"], cell.data.metrics["n/seeds"]) == (3, 2)
    assert copied(records | {"runs/stash-2": second}) == 1


@pytest.mark.parametrize(("report", "objective", "best"), [(POINTS, "accuracy", 1), (NATS, "loss", 2)])
def test_trials_are_below_their_study_which_shows_the_one_that_the_tuner_chooses(
    place, copied, report, objective, best
):
    rates, values = (0.1, 0.2, 0.3, 0.4, 0.5), [(0.7, 1.5), (0.875, 1.2), (0.6, 0.9), (0.875, 0.9), (0.99, 0.1)]
    trials = [record("stash", 100, lr=rate) for rate in rates]
    for made, (correct, loss) in zip(trials, values, strict=True):
        made["epochs"][-1] |= {"val_accuracy": correct, "val_loss": loss}
    trials[-1] |= {"status": "pruned", "test": None}
    study = SimpleNamespace(settings=SimpleNamespace(objectives=(objective,)))
    told = [tell_arguments(made, (objective,), "tpe") for made in trials]
    known = [create_trial(**({"state": TrialState.COMPLETE} | one), params={}) for one in told]
    assert [known.index(trial) for trial in best_trials(study, known)] == [best]
    records = {f"tune/stash/range-0/trials/{number:05d}": made for number, made in enumerate(trials)}
    copied(records)
    shown = _runs(place, kind="study")["stash x3 tuning"].data
    assert (shown.metrics["n/trials"], "final/val_loss" in shown.metrics) == (5, False)  # what is judged isn't known
    copied(records, report)
    shown = _runs(place, kind="study")["stash x3 tuning"].data
    assert set(_runs(place, kind="trial")) == {f"stash x3 {rate}" for rate in rates}
    found = tuple(shown.metrics[f"final/val_{name}"] for name in ("accuracy", "loss"))
    assert found == (100 * values[best][0], values[best][1])
    assert f"the best validation {objective} at its end" in shown.tags["mlflow.note.content"]


@slow
def test_names_tell_all_committed_runs_apart():
    for source in tracking.sources(ROOT / "results/runs", [ROOT / "results/evidence"], ROOT / "none"):
        final = [run.description for run in tracking.recorded_runs(source) if run.description.phase == FINAL]
        names = [about.name for about in final]
        if source.experiment == "mnist1d":  # seeds with and without probes are of one cell
            assert len({about.cell_key for about in final}) == len({about.cell_name for about in final})
        assert len(set(names)) == len(names) > 20, source.experiment
        if not source.experiment.startswith(("screen-", "why-", "field-")):  # elsewhere what MLflow shows is enough
            assert len({name[:20] for name in names}) == len(names), source.experiment


def test_a_run_has_the_address_of_the_page_that_shows_it(place, copied, tmp_path):
    def page(name, figure):
        (tmp_path / "pages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pages" / name).write_text(f'<figure markdown="1" id="figure-{figure}">')

    records = {"runs/a": record(), "tune/stash/b": record(lr=0.5)}
    page("experiments/other/evidence.md", "final_accuracy")  # of another experiment alone
    copied(records)
    assert [run for run in _runs(place).values() if "page" in run.data.tags] == []
    page("report/accuracy.md", "final_accuracy")
    page("report/rates.md", "tuning_rates")
    copied(records)
    address = "build/site/out/report/accuracy.html#figure-final_accuracy"
    for kind in ("cell", "seed"):
        (run,) = _runs(place, kind=kind).values()
        assert run.data.tags["page"] == address
        assert f"`{address}`" in run.data.tags["mlflow.note.content"]
    for kind in ("study", "trial"):
        (run,) = _runs(place, kind=kind).values()
        assert run.data.tags["page"] == "build/site/out/report/rates.html#figure-tuning_rates"
    client = client_of(place)
    search = "tags.page LIKE '%report/accuracy%' AND tags.kind = 'seed'"  # as the pages have it
    assert [run.info.run_name for run in client.search_runs([run.info.experiment_id], search)] == ["stash x3 s0 0.01"]
    assert f"`{address}`" in client.get_experiment_by_name("layerpipe2/digits").tags["mlflow.note.content"]
    page("experiments/digits/evidence.md", "final_accuracy")
    copied(records)
    (run,) = _runs(place, kind="seed").values()
    assert run.data.tags["page"] == "build/site/out/experiments/digits/evidence.html#figure-final_accuracy"


def test_every_experiment_with_committed_records_has_a_page(published_results):
    pages = published_results / "paper_figures" / "out"
    folders = [folder.parent for folder in (published_results / "results" / "evidence").glob("*/runs")]
    sources = [tracking.Source(folder.name, folder, {}, pages, pages, {}) for folder in folders]
    assert len(sources) > 10
    assert [source.experiment for source in sources if not source.page(FINAL)] == []


def test_a_summary_holds_the_figures_once(place, copied, tmp_path):
    (tmp_path / "pages" / "figures").mkdir(parents=True)
    (tmp_path / "pages" / "figures" / "accuracy.svg").write_bytes(b"svg")
    (tmp_path / "pages" / "report.md").write_text("# The report")
    (tmp_path / "pages" / "verdicts.json").write_text('{"C1": "reproduced"}')
    for _ in range(2):
        copied({"runs/a": record()})
        (summary,) = _runs(place, kind="summary").values()
    client = client_of(place)
    assert [file.path for file in client.list_artifacts(summary.info.run_id, "figures")] == ["figures/accuracy.svg"]
    assert "| C1 | reproduced |" in summary.data.tags["mlflow.note.content"]
    tags = client.get_experiment(summary.info.experiment_id).tags
    assert "| C1 | reproduced |" in tags["mlflow.note.content"]


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_copy_that_was_cut_off_is_made_again(place, copied, monkeypatch, writes):
    """At every call that adds something to a run: to the cell, and to the first and the second seed."""
    records, calls = {"runs/a": record(), "runs/b": record(seed=1)}, []

    def cut_off(*arguments, **options):
        calls.append(arguments)
        if len(calls) == writes:
            raise KeyboardInterrupt
        return terminate(*arguments, **options)

    terminate = MlflowClient.set_terminated
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", cut_off)
        with pytest.raises(KeyboardInterrupt):
            copied(records)
    copied(records)
    expected = dict.fromkeys(["stash x3", "stash x3 s0", "stash x3 s1"], "FINISHED")
    assert {name: run.info.status for name, run in _runs(place).items()} == expected
    assert copied(records) == 0


def test_two_processes_copy_every_record_once(place, tmp_path):
    for seed in range(3):
        cell_file.write(tmp_path / "runs" / f"{seed}.json", record("latest", seed))

    def copy():
        sources = tracking.sources(tmp_path / "runs", [], tmp_path / "none")
        print(tracking.track(sources, *place)[0])

    processes = [fork(copy, tmp_path / f"said{number}") for number in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    said = "".join((tmp_path / f"said{number}").read_text() for number in range(2))
    assert sorted(word for word in said.split() if word.isdigit()) == ["0", "3"]
    assert len(_runs(place, kind="seed")) == 3
    assert not [path for path in tmp_path.iterdir() if ".new" in path.name]


def test_a_place_that_cannot_be_written_is_one_line_at_once(place):
    for database, artifacts in ((Path("/proc/mlflow.db"), place[1]), (place[0], Path("/proc/artifacts"))):
        with pytest.raises(UserError, match=r"output folder /proc(/artifacts)? can't be "):
            tracking.track([], database, artifacts)


def arguments(place, folder, *more):
    given = ["--runs", folder / "runs", "--larger", folder / "larger", "--pages", folder / "no"]
    return [str(word) for word in (*given, "--database", place[0], "--artifacts", place[1], *more)]


def test_the_script_counts_what_is_new_and_prints_a_link_to_every_page(place, tmp_path, empty, capsys):
    shutil.copyfile(empty, place[0])
    cell_file.write(tmp_path / "runs" / "a.json", record())
    larger = tmp_path / "larger" / "bigger"
    cell_file.write(larger / "runs" / "a.json", record())
    write_record(larger / "tune" / "a" / "lr-0.1.json", record())
    tracking.main(arguments(place, tmp_path, "--summary", tmp_path / "tracked.json"))
    tracking.main(arguments(place, tmp_path, "--port", 5017))
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"records": 3}
    first, second, *links = capsys.readouterr().out.strip().split("\n")  # no links without a port
    assert first.startswith("3 of 3 runs were new")
    assert second.startswith("0 of 3 runs were new")
    expected = [*((1, key) for key in ("cells", "charts", "seeds")), *((2, key) for key in LISTS)]
    addresses = [link("http://127.0.0.1:5017", str(number), LISTS[key]) for number, key in expected]
    assert [line.strip() for line in links[1::2]] == addresses
    assert tracking.checkout(tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc") == tmp_path  # of DVC's copy
    assert tracking.checkout(tmp_path) == tmp_path


def test_with_every_it_goes_on_and_passes_over_what_cannot_be_read_yet(place, tmp_path, empty, monkeypatch, capsys):
    shutil.copyfile(empty, place[0])
    runs = tmp_path / "runs"
    cell_file.write(runs / "a.json", record())
    what_happens = [
        lambda: cell_file.write(runs / "b.json", record("latest")),
        lambda: (runs / cell_file.FILE).write_text(f"{(runs / cell_file.FILE).read_text()}{{"),
        lambda: (runs / cell_file.FILE).write_text((runs / cell_file.FILE).read_text().removesuffix("{")),
        lambda: cell_file.write(runs / "c.json", record("ema-span")),
    ]

    def wait(seconds):
        assert seconds == 30
        if not what_happens:
            raise KeyboardInterrupt
        what_happens.pop(0)()

    monkeypatch.setattr(tracking.time, "sleep", wait)
    with pytest.raises(KeyboardInterrupt):
        tracking.main(arguments(place, tmp_path, "--every", 30))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" runs")[0] for line in lines] == ["1 of 1", "1 of 2", "1 of 3"]


@slow
def test_the_cells_of_the_committed_runs_have_the_numbers_of_the_report(place, published_results):
    results = published_results / "results"
    tracking.track(tracking.sources(results / "runs", [], ROOT / "none"), *place)
    cells = _runs(place, "mnist1d", kind="cell").values()
    names = ("network", "stages", "strategy")
    shown = {tuple(cell.data.tags[name] for name in names): cell.data.metrics for cell in cells}
    table = accuracy(Records(pd.read_csv(results / "runs.csv"), *[pd.DataFrame()] * 3))
    assert len(table) == len(shown) > 40
    for row in table.to_dict("records"):
        metrics = shown[row["network"], str(row["stages"]), row["strategy"]]
        assert metrics["final/test_accuracy"] == pytest.approx(row["mean"], abs=5.1e-4)
        assert metrics.get("sd/test_accuracy", nan) == pytest.approx(row["sd"], abs=5.1e-4, nan_ok=True)
        assert (metrics["n/with_result"], metrics["n/seeds"]) == (row["n"], row["n"] + row["diverged"])


@slow
def test_what_the_strategies_win_back_is_what_the_pages_say(published_results):
    results, out = published_results / "results", published_results / "paper_figures" / "out"
    own, evidence = (
        pd.read_csv(out / name).set_index([*CELL, "rate", "strategy"]).sort_index()
        for name in ("tables/assay_rules.csv", "evidence/tables/rules.csv")
    )
    compared = 0
    for source in tracking.sources(results / "runs", [results / "evidence"], out):
        rules = evidence if source.experiment.startswith("evidence-") else own
        for run in tracking.recorded_runs(source):
            about = run.description
            cell = (*(about.config[name] for name in CELL[:-1]), len(about.delays))
            place = (*cell, about.rate or "tuned", about.strategy)
            if about.phase == FINAL and not source.experiment.endswith("-long") and place in rules.index:
                (row,) = rules.loc[[place]].to_dict("records")
                told = row["sensitive"] and not pd.isna(row["share"]) and about.strategy != "latest"
                assert run.won_back == (round(100 * row["share"], 1) if told else None)
                compared += told
    assert compared > 100
