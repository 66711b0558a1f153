"""The runs of an experiment, the choice of learning rates, and which records are theirs."""

import json
import re

import pytest

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment
from experiments.names import experiments
from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import write_json
from tests.made_records import record
from tests.small_experiments import TUNED, UNTUNED, small


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_is_a_list_of_different_runs(name):
    experiment = read_experiment(name)
    assert experiment.name == name
    assert len(experiment.seeds) >= (2 if name.startswith("screen-") else 3)
    tasks = Grid.of(experiment.model_copy(update={"front": None})).tasks  # as if the search dropped nothing
    assert len({task.path for task in tasks}) == len(tasks)
    runs = {json.dumps([task.config.to_dict(), task.common], sort_keys=True) for task in tasks}
    assert len(runs) == len(tasks)


@pytest.mark.parametrize(("name", "momentum"), [("evidence-resnet18", 0.0), ("evidence-resnet18-momentum", 0.9)])
def test_the_full_scale_is_the_whole_experiment(name, momentum):
    tasks = Grid.of(read_experiment(name)).tasks
    assert {(t.config.dataset, t.config.network, t.config.width) for t in tasks} == {("cifar100", "resnet18", 64)}
    assert {(t.cell.stages, t.config.group_size) for t in tasks} == {(1, 10), (5, 2), (10, 1)}
    assert {t.config.momentum for t in tasks} == {momentum}
    assert {t.config.epochs for t in tasks} == {30}
    assert len({t.config.seed for t in tasks}) == 5
    aware = {"ema-window", "ema-running", "ema-span", "ema-lsq", "pair"}
    assert {"stash", "latest", "ema-0.9", "ema-span-raw", *aware} <= {t.cell.strategy for t in tasks}


def test_records_of_the_default_experiment_are_sorted_by_network_and_group():
    grid = Grid.of(read_experiment("mnist1d"))
    experiment = grid.experiment
    for size, seeds in ((1, experiment.seeds), (3, experiment.other_seeds)):
        tasks = [task for task in grid.choose("cnn-small", size) if not task.common and task.config.seed in seeds]
        wanted = [(s, n) for n in seeds for s in experiment.strategies]
        assert [(task.cell.strategy, task.config.seed) for task in tasks] == wanted
        assert {task.config.group_size for task in tasks} == {size}
        assert str(grid.folder / tasks[0].path) == f"results/runs/cnn-small/{size}/stash-s0.json"
    assert {task.cell.strategy for task in grid.choose("mlp", "sequential")} == {"sequential"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [4]}, "network mlp has 9 units, which can't be 4 stages; possible: 1, 2, 3, 5, 9"),
        (
            {"networks": ["mlp", "vgg"], "stages": [3, 2], "cell": "{strategy}"},
            r"cell is '\{strategy\}', which gives 4 runs the record runs/stash-s0\.json; name what tells them",
        ),
    ],
)
def test_what_is_no_list_of_different_runs_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        _ = small(tmp_path, TUNED, **changes).tasks


def test_networks_data_sets_and_optimizers_are_crossed(tmp_path):
    optimizers = {"sgd": {"lr": 0.1}, "adamw": {"optimizer": "adamw", "lr": 0.001}}
    axes = {"networks": ["mlp", "vgg"], "datasets": ["digits", "cifar10"], "optimizers": ["sgd", "adamw"]}
    cell = "{network}-{dataset}-{optimizer}-{group}-{strategy}"
    grid = small(tmp_path, UNTUNED, **axes, optimizer_settings=optimizers, cell=cell)
    assert len(grid.tasks) == 2 * 2 * 2 * 10
    found = {(t.config.network, t.config.dataset, t.config.optimizer, t.config.lr) for t in grid.tasks}
    assert len(found) == 8


def test_a_record_of_other_settings_is_refused(tmp_path):
    grid = small(tmp_path, UNTUNED)
    task = grid.tasks[0]
    cell_file.write(grid.folder / task.path, record() | {"config": task.config.to_dict()})
    assert grid.record(task) is not None
    assert grid.left(grid.tasks) == list(grid.tasks[1:])
    other = small(tmp_path, UNTUNED, settings=UNTUNED["settings"] | {"threads": 4, "device": "cpu"})
    assert other.record(other.tasks[0]) is not None, "another machine may need these otherwise"
    other = small(tmp_path, UNTUNED, settings=UNTUNED["settings"] | {"width": 9})
    message = r"was made with width 8, the experiment has 9; use another --out folder, or move the old records away"
    with pytest.raises(UserError, match=message):
        other.record(other.tasks[0])


def test_what_is_no_record_is_refused_before_training(tmp_path):
    grid = small(tmp_path, UNTUNED)
    path = grid.folder / grid.tasks[0].path
    file = path.parent / cell_file.FILE
    file.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{file.name} is no regular file; delete it and train again"):
        grid.left(grid.tasks)
    file.rmdir()
    file.write_text(f'{{"name":"{path.stem}","record":{{"schema":2}}}}\n')
    place = re.escape(cell_file.place(path))
    with pytest.raises(UserError, match=rf"record {place}: it isn't what was written .*; delete it and train"):
        grid.left(grid.tasks)


SPACE = {"tuning": {"seeds": [100], "space": {"lr": "log:0.02:0.2"}, "trials": 3}, "optimizer_settings": {"sgd": {}}}


def test_runs_at_the_common_rate_have_what_was_chosen_for_stash(tmp_path):
    grid = small(tmp_path, UNTUNED, **SPACE, common_seeds=[5, 6])
    names = sorted(grid.name(cell) for cell in {grid.tuned_with(cell) for cell in grid.cells})
    chosen = {name: {"lr": 0.03 + 0.01 * place} for place, name in enumerate(names)}
    write_json(grid.folder / "tuned.json", {"mlp": chosen})
    common = [task for task in grid.tasks if task.common]
    paths = [str(task.path) for task in common if task.cell.group == 1]
    assert paths == ["runs/mlp-1/latest-common-s5.json", "runs/mlp-1/latest-common-s6.json"]
    others = [task for task in grid.tasks if not task.common and task.cell.strategy == "latest"]
    for tasks, rate, name in ((common, "common", "stash"), (others, "tuned", "latest")):
        assert {(grid.ready(task).lr, grid.rate(task)) for task in tasks} == {(chosen[f"mlp-1/{name}"]["lr"], rate)}
    untuned = small(tmp_path, UNTUNED)
    assert {untuned.rate(task) for task in untuned.tasks} == {"sgd"}


def test_control_seeds_are_those_of_stash_and_the_latest_weights_at_the_deepest_partition(tmp_path):
    grid = small(tmp_path, UNTUNED, control_seeds=[7, 8], strategies=["stash", "latest", "ema-window"])
    more = [(task.cell.strategy, task.config.seed) for task in grid.tasks if task.config.seed >= 7]
    assert more == [("stash", 7), ("latest", 7), ("stash", 8), ("latest", 8)]
    assert {task.cell.stages for task in grid.tasks if task.config.seed >= 7} == {max(c.stages for c in grid.cells)}


def test_a_given_common_rate_is_one_for_stash_as_well_and_other_networks_have_no_such_runs(tmp_path):
    grid = small(tmp_path, UNTUNED, **SPACE, common_seeds=[5], common_rates={"mlp": 0.07}, networks=["mlp", "cnn"])
    common = [task for task in grid.tasks if task.common]
    assert [task.cell[:1] + task.cell[3:4] + task.cell[5:] for task in common] == [
        ("mlp", 1, "stash"),
        ("mlp", 1, "latest"),
    ]
    assert {grid.ready(task).lr for task in common} == {0.07}
    others = {(t.cell.network, t.cell.strategy, t.config.seed) for t in grid.tasks if not t.common}
    strategies = ("sequential", "stash", "latest")
    assert others == {(n, s, seed) for n in ("mlp", "cnn") for s in strategies for seed in (0, 1)} | {
        ("mlp", "sequential", 5)
    }
