"""``train --config``: a run again from its record, or from some settings in a file; options win over it."""

import json

import pytest

from layerpipe2.cli import main
from layerpipe2.lab.runs.records import read_record

SMALL = ["train", "--width", "8", "--group-size", "3", "--epochs", "2", "--batch-size", "128", "--quiet"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "run.json"
    assert main([*SMALL, "--strategy", "ema-span", "--gradient-clip-norm", "1", "--seed", "3", "--out", str(path)]) == 0
    return path


def again(path, folder, *options):
    out = folder / "again.json"
    assert main(["train", "--config", str(path), "--quiet", "--out", str(out), *options]) == 0
    return read_record(out)


def test_a_run_is_repeated_from_its_record(record, tmp_path):
    first, second = read_record(record), again(record, tmp_path)
    assert second["config"] == first["config"]
    assert second["epochs"] == first["epochs"]
    assert second["test"] == first["test"]


def test_a_run_without_a_pipeline_is_repeated_as_well(tmp_path):
    path = tmp_path / "run.json"
    assert main([*SMALL, "--strategy", "sequential", "--out", str(path)]) == 0
    assert again(path, tmp_path)["epochs"] == read_record(path)["epochs"]


def test_options_win_over_the_file(record, tmp_path):
    found = again(record, tmp_path, "--epochs", "1", "--strategy", "stash", "--seed", "0")["config"]
    assert (found["epochs"], found["strategy"], found["seed"]) == (1, "stash", 0)
    assert (found["width"], found["gradient_clip_norm"]) == (8, 1.0)


@pytest.mark.parametrize("name", ["run.yaml", "settings.json"])
def test_some_settings_in_a_file(name, tmp_path):
    settings = {"width": 8, "group_size": 5, "convention": "custom", "delays": [3, 0], "epochs": 1}
    path = tmp_path / name
    path.write_text(json.dumps(settings))  # which is YAML, too
    found = again(path, tmp_path)
    assert {key: found["config"][key] for key in settings} == settings
    assert found["delays"] == [3, 0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "grup_size: 3", "a.yaml: unknown key 'grup_size'; did you mean 'group_size'?"),
        ("a.yaml", "optimizer: sdg", "a.yaml: optimizer is 'sdg'; give one of sgd, adamw; did you mean 'sgd'?"),
        ("a.json", '{"lr": -1}', "a.json: lr is -1; give a finite number > 0"),
        ("a.json", '{"lr": ', "a.json isn't valid JSON; give a record or settings"),
        ("a.yaml", "- 3", "a.yaml is [3]; give a mapping of keys"),
        ("a.json", '{"schema": 2, "config": {}}', "a.json: it isn't what was written (its checksum differs)"),
        ("b.yaml", None, "b.yaml can't be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(name, text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["train", "--config", name, "--out", "out.json", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
