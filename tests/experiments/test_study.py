"""What params.yaml says and how mistakes in it are reported."""

from pathlib import Path

import pytest
import yaml

from experiments.study.params import Study
from layerpipe2.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def content():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture
def study_of(tmp_path):
    def read(content) -> Study:
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return Study.from_file(path)

    return read


def test_the_shipped_file_has_three_networks_and_three_seeds():
    study = Study.from_file(ROOT / "params.yaml")
    assert len(study.networks) == 3
    assert len(study.seeds) >= 3
    runs = study.runs("vgg", 2)
    assert [(run.strategy, run.seed) for run in runs] == [(s, n) for s in study.strategies for n in study.seeds]
    assert {run.group_size for run in runs} == {2}
    assert {run.strategy for run in study.runs("mlp", "sequential")} == {"sequential"}


def test_of_two_sections_the_later_one_wins(content, study_of):
    content["optimizer"]["lr"] = 0.5
    content["nets"]["vgg"]["lr"] = 0.25
    assert [study_of(content).runs(name, 1)[0].lr for name in ("mlp", "vgg")] == [0.5, 0.25]
    content["profiles"]["digits"]["lr"] = 0.125
    assert [study_of(content).runs(name, 1)[0].lr for name in ("mlp", "vgg")] == [0.125, 0.125]


def test_one_parameter_switches_the_data_set(content, study_of):
    content["data"]["dataset"] = "fashion-mnist"
    run = study_of(content).runs("mlp", 1)[0]
    assert run.dataset == "fashion-mnist"
    assert run.batch_size == content["profiles"]["fashion-mnist"]["batch_size"]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("nets", "mlp", "lr"), float("nan"), "params.yaml: nets.mlp.lr is nan; give a finite number > 0"),
        (("nets", "mlp", "widht"), 8, "params.yaml: nets.mlp: unknown key 'widht'; did you mean 'width'?"),
        (("nets", "mlp", "seed"), 8, "params.yaml: nets.mlp: unknown key 'seed'"),
        (("optimizer", "optimizer"), "lion", "params.yaml: optimizer.optimizer is 'lion'; give one of sgd, adamw"),
        (("study", "group"), [1], "params.yaml: study: unknown key 'group'; did you mean 'groups'?"),
        (("study", "groups"), [0], "params.yaml: study.groups, entry is 0; give an integer >= 1"),
        (("study", "seeds"), [1, 1], "params.yaml: study.seeds is [1, 1]; give a list of distinct values"),
        (("study", "strategies"), "stash", "params.yaml: study.strategies is 'stash'; give a list"),
        (("study", "probe_every"), -1, "params.yaml: study.probe_every is -1; give an integer >= 0"),
        (("study", "networks"), ["mpl"], "params.yaml: nets has no 'mpl'; known: mlp, vgg"),
        (("data", "dataset"), "mnist", "params.yaml: profiles has no 'mnist'; known: digits"),
        (("data", "dataset"), None, "params.yaml: data.dataset is None; give a text"),
        (("execution", "jobs"), 0, "params.yaml: execution.jobs is 0; give an integer >= 1"),
        (("execution", "jobz"), 4, "params.yaml: execution: unknown key 'jobz'; did you mean 'jobs'?"),
        (("study", "probe_evry"), 4, "params.yaml: study: unknown key 'probe_evry'; did you mean 'probe_every'?"),
        (("study", "strategies"), ["stash", "emaspan"], "params.yaml: study.strategies: unknown strategy 'emaspan'"),
        (("nets", "mlpp"), {}, "params.yaml: nets: unknown key 'mlpp'; did you mean 'mlp'?"),
        (("report", "significance_levl"), 0.1, "params.yaml: report: unknown key 'significance_levl'; did you mean"),
        (("report", "equivalence_margin_points"), -3, "params.yaml: report.equivalence_margin_points is -3; give"),
        (("execution", "cores"), 4, "params.yaml: execution: unknown key 'cores'"),
        (("optimiser",), {}, "params.yaml: unknown key 'optimiser'; did you mean 'optimizer'?"),
        (("data",), 7, "params.yaml: data is 7; give a mapping of keys"),
    ],
)
def test_mistakes_name_file_key_value_and_range(content, study_of, keys, value, message):
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    with pytest.raises(UserError) as caught:
        study_of(content)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named(content, study_of):
    del content["optimizer"]
    with pytest.raises(UserError, match="the file has no 'optimizer'"):
        study_of(content)


@pytest.mark.parametrize("text", ["a: [", "just text", ""])
def test_a_file_that_holds_no_mapping_is_one_line(study_of, text):
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        study_of(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="run this in the repository's root"):
        Study.from_file(tmp_path / "params.yaml")


@pytest.mark.parametrize(("network", "group"), [("mpl", 1), ("mlp", 3), ("mlp", "all")])
def test_an_item_that_is_not_in_the_study_is_refused(network, group):
    with pytest.raises(UserError, match=r"study has no (network|group) .*; params\.yaml lists"):
        Study.from_file(ROOT / "params.yaml").runs(network, group)
