"""Random bad inputs: what is asked for happens, or one line says why not. The same cases at every run."""

import random

import pytest

from tests.chaos import inputs, rule


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to work in; nothing beside it changes."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.chdir(own)
    with rule.unchanged(tmp_path, own):
        yield own


def told(answers):
    """All keep to the rule, and there are some that pass and some that don't."""
    answers = list(answers)
    assert 0 < answers.count(None) < len(answers)


def test_files_of_experiments(folder):
    told(rule.yaml_answer(inputs.yaml_case(random.Random(seed)), folder) for seed in range(60))


def test_settings():
    told(rule.config_answer(inputs.config_case(random.Random(seed))) for seed in range(120))


def test_calls():
    told(rule.answer(inputs.api_case(random.Random(seed))) for seed in range(600))


def test_command_lines():
    told(rule.command_answer(inputs.command_case(random.Random(seed))) for seed in range(50))


def test_files_of_data(folder, capfd):
    def loaded(seed):
        place = folder / str(seed)
        place.mkdir()
        return rule.data_answer(inputs.data_case(random.Random(seed), place), place)

    told(map(loaded, range(50)))
