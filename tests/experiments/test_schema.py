"""The files of experiments: ``like`` takes over what is not given, a mistake is one line."""

import json
import re

import pytest
import yaml

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import Experiment, read_experiment
from experiments.names import HERE
from layerpipe2.errors import UserError, shown
from layerpipe2.lab.networks import NETWORKS
from tests.small_experiments import REPORT, ROOT, TUNED, UNTUNED, small, write_experiment


def test_the_default_experiment_has_all_kinds_of_networks_and_publishes_its_tables():
    default = read_experiment("mnist1d")
    assert {NETWORKS[name].kind for name in default.networks} == {"fully connected", "convolutional", "spiking"}
    assert default.published
    assert default.report.least_share == 0.75


def test_of_two_places_the_later_one_wins(tmp_path):
    tables = {
        "settings": {"lr": 0.5, "momentum": 0.1, "weight_decay": 0.1, "batch_size": 8},
        "optimizer_settings": {"sgd": {"lr": 0.4, "momentum": 0.2, "weight_decay": 0.2}},
        "network_settings": {"mlp": {"lr": 0.3, "momentum": 0.3}, "vgg": {"lr": 0.9}},
        "dataset_settings": {"digits": {"lr": 0.2}, "cifar10": {"lr": 0.9}},
    }
    found = small(tmp_path, UNTUNED, **tables).tasks[0].config
    assert (found.lr, found.momentum, found.weight_decay, found.batch_size) == (0.2, 0.3, 0.2, 8)


def test_one_word_switches_the_data_set_of_the_small_experiment(tmp_path):
    digits = yaml.safe_load((HERE / "digits.yaml").read_text())
    run = small(tmp_path, digits, datasets=["fashion-mnist"]).tasks[0].config
    assert (run.dataset, run.batch_size) == (
        "fashion-mnist",
        digits["dataset_settings"]["fashion-mnist"]["batch_size"],
    )


def test_a_file_takes_from_the_one_it_is_like_what_it_does_not_give(tmp_path):
    write_experiment(tmp_path, TUNED, published=True, records="elsewhere", other_seeds=[8])
    own = {"like": "small", "seeds": [7], "settings": {"width": 4}, "other_seeds": None}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "third.yaml").write_text(yaml.safe_dump({"like": "other", "report": {"significance_level": 0.1}}))
    other, third = (read_experiment(str(tmp_path / f"{name}.yaml")) for name in ("other", "third"))
    assert (other.name, other.seeds, other.other_seeds, other.stages) == ("other", (7,), None, (3,))
    assert other.settings.given == {"width": 4, "epochs": 1, "batch_size": 128}
    assert not other.published
    assert other.records == "results/evidence/{name}"
    assert (third.seeds, third.report.significance_level, third.report.equivalence_margin_points) == ((7,), 0.1, 5)


NAME, OTHER = "give a name: no /, \\. or", "give the name of another file"


@pytest.mark.parametrize(
    ("like", "file", "remedy"),
    [
        *((like, "small", NAME) for like in ("../common", "a/b", "..", "a\x00b", "a" * 101)),
        *((like, "small", OTHER) for like in ("nothing", "small", 7)),
        ("other", "other", OTHER),  # which is like small
    ],
)
def test_a_file_is_like_another_one_of_its_own_folder(tmp_path, like, file, remedy):
    (tmp_path / "other.yaml").write_text("like: small\n")
    wrong = "small" if file == "other" else like
    with pytest.raises(UserError, match=rf"{file}\.yaml: like is {re.escape(shown(wrong))}; {remedy}"):
        small(tmp_path, {"like": like})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("digitz", "did you mean 'digits'"),
        ("cifar", "known: digits, evidence-cnn"),
        ("digits.yml", "did you mean 'digits'"),
    ],
)
def test_an_unknown_experiment_is_refused_with_the_names_that_there_are(name, remedy):
    with pytest.raises(UserError, match=f"no experiment {name!r}; {remedy}"):
        read_experiment(name)


UNTUNED_MISTAKES = [
    ("network_settings: {mlp: {lr: .nan}}", "network_settings.mlp.lr is nan; give a finite number > 0"),
    ("network_settings: {mlp: {seed: 8}}", "network_settings.mlp: unknown key 'seed'"),
    ("network_settings: {mlpp: {}}", "network_settings"),
    ("optimizer_settings: {sgd: {optimizer: lion}}", "optimizer_settings.sgd.optimizer is 'lion'; give one of sgd, ad"),
    ("group_sizes: [0]", "group_sizes is [0]; give a list of distinct integers >= 1"),
    ("strategies: [stash, emaspan]", "strategies.1: unknown strategy 'emaspan'"),
    ("strategies: [latest]", "strategies lacks 'stash', which the others are compared with; add it"),
    ("networks: [mpl]", "networks is ['mpl']; give a list of distinct names out of mlp, cnn, vgg"),
    ("datasets: [mnist]", "datasets is ['mnist']; give a list of distinct names out of digits"),
    ("jobs: 0", "jobs is 0; give an integer >= 1"),
    ("report: {equivalence_margin_points: -3}", "report.equivalence_margin_points is -3; give"),
    ("stages: [3]", "group_sizes and stages are two ways to cut a network; give one of them"),
    ("cell: '{netwrk}'", "cell has the placeholder 'netwrk'; did you mean 'network'?"),
    ("cell: '{network!z}'", "cell is '{network!z}'; write the placeholder as {network} and nothing more"),
    ("cell: '{network:>999999999}'", "cell is '{network:>999999999}'; write the placeholder as {network} and nothing"),
    ("cell: '{network'", "cell is '{network' (expected '}' before end of string); write placeholders as in {network}"),
    ("cell: ../../{strategy}", "part of cell '../../{strategy}' is '..'; give a name: no /, . or .., at most 100"),
    ("records: x/{nme}", "records has the placeholder 'nme'; did you mean 'name'?"),
    ("records: x/{name.__class__}", "records has the placeholder 'name.__class__'; known: name"),
    ("records: /x/{name}", "part of records '/x/{name}' is ''; give a name"),
    ("tables: x/{name", "tables is 'x/{name' (expected '}' before end of string); write placeholders as in {name}"),
    ("tables: x/../../{name}", "part of tables 'x/../../{name}' is '..'; give a name"),
    ("name: a/../b", "name is 'a/../b'; give a name: no /, . or .., at most 100 printable characters"),
    ('name: "a\\0b"', "name is 'a\\x00b'; give a name"),
    ("{optimizers: [../sgd], optimizer_settings: {../sgd: {lr: 1}}}", "optimizer is '../sgd'; give a name"),
    ("jobs: 4294967296", "jobs is 4294967296; give an integer >= 1 and <= 256"),
    ("group_sizes: [4294967296]", "group_sizes is [4294967296]; give a list of distinct integers >= 1 and <= 65536"),
]
TUNED_MISTAKES = [
    (
        "tuning: {epochs: 0, seeds: [7], trials: 3, space: {lr: 'log:1e-4:1'}}",
        "tuning.epochs is 0; give an integer >= 1",
    ),
    ("tuning: {seeds: [7], trials: 3, space: {}}", "tuning.space is {}; give"),
    ("tuning: {seeds: [7], space: {lr: 'log:1e-4:1'}, trials: 0}", "tuning.trials is 0; give an integer >= 1"),
    ("stages: [1]", "stages is [1]; give a list of distinct integers >= 2"),
    ("strategies: [stash, latest, sequential]", "strategies has 'sequential', which is always there"),
    ("{tuning: null, common_seeds: [1]}", "common_seeds needs a tuning, from which stash has its settings"),
    ("common_rates: {mlp: 0.1}", "common_rates has mlp; give common_seeds, a tuning.space of lr alone"),
    ("datasets: [wordnet]", "datasets has wordnet, whose loss is judged; give report.equivalence_margin_nats"),
    (
        f"report: {json.dumps({**REPORT, 'image_guard': True, 'equivalence_margin_nats': 1})}",
        "report: image_guard needs a margin in points",
    ),
    ("optimizers: [lion]", "optimizer_settings has no 'lion'; known: sgd"),
    ("cell: '/{strategy}'", "part of cell '/{strategy}' is ''; give a name"),
    (
        "{control_seeds: [7], strategies: [stash]}",
        "control_seeds are those of stash and 'latest', which strategies lacks",
    ),
    (
        "{optimizers: [sgd, adamw], optimizer_settings: {sgd: {}, adamw: {optimizer: adamw}}}",
        "optimizers has several, but a tuned experiment has one; write a file for each",
    ),
    ("control_seeds: [100]", "tuning.seeds has 100, the seed of final runs; give another"),
    ("seeds: [100]", "tuning.seeds has 100, the seed of final runs; give another"),
    (
        f"report: {json.dumps({**REPORT, 'least_share': 0.75})}",
        "report.least_share needs margins from the search; give tuning.seeds two or more",
    ),
    (
        "tuning: {seeds: [7, 8], trials: 3, space: {lr: 'log:1e-4:1'}}",
        "tuning: seeds has 2, but only a grid has the same points with each; give one seed, or sampler: grid",
    ),
    (
        "tuning: {seeds: [7], trials: 3, sampler: grid, space: {lr: 'choice:0.1,0.2'}}",
        "tuning: trials is 3, but the grid has 2 points; give 2",
    ),
    (
        "tuning: {seeds: [7], trials: 3, sampler: grid, space: {lr: 'log:1e-4:1'}}",
        "tuning: a grid has a range in its space; give choices without conditions, as in lr=choice:0.01,0.02",
    ),
    ("settings: {lr: 0.1}", "settings.lr is given, but lr is tuned; leave out one of them"),
]
MISTAKES = [(UNTUNED, *mistake) for mistake in UNTUNED_MISTAKES] + [(TUNED, *mistake) for mistake in TUNED_MISTAKES]


@pytest.mark.parametrize(("content", "changes", "message"), MISTAKES)
def test_mistakes_name_file_key_value_and_range(tmp_path, content, changes, message):
    with pytest.raises(UserError) as caught:
        small(tmp_path, content, **yaml.safe_load(changes))
    assert str(caught.value).startswith(f"small.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named_and_too_many_runs_are_refused_before_they_are_listed(tmp_path):
    for key in ("networks", "report", "optimizer_settings"):
        with pytest.raises(UserError, match=rf"^small\.yaml: '{key}' is missing; give"):
            small(tmp_path, {name: value for name, value in UNTUNED.items() if name != key})
    with pytest.raises(UserError, match=r"^small\.yaml: this is 22,500 runs; give shorter lists, for at most 20,000$"):
        small(tmp_path, UNTUNED, seeds=list(range(4500)))


RECIPE = ROOT / "docs" / "howto" / "add-an-experiment.md"
EXAMPLES = re.findall(r'^```yaml title="experiments/(\S+)"\n(.*?)^```$', RECIPE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_recipe_adds_an_experiment_by_one_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    grid = Grid.of(read_experiment(str(tmp_path / name)))
    assert str(grid.folder) == f"results/evidence/{name.removesuffix('.yaml')}"
    assert len(grid.tasks) > 30


def test_the_recipe_explains_every_key():
    keys = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", RECIPE.read_text(), re.MULTILINE))))
    assert keys == {"like", *Experiment.model_fields} - {"name"}
