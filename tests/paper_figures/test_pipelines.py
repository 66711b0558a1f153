"""Measured pipelines, from records made by hand: verdicts, tables and page follow the numbers."""

import re

import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines.benchmark import load, pipelines
from paper_figures.variant_style import label
from paper_figures.verdicts import Answer
from tests.paper_figures import made_pipelines as made
from tests.paper_figures.made_pipelines import page_text, verdicts, written


@pytest.mark.parametrize(
    ("stash", "average", "word"),
    [(1.79, 1.7, "missed"), (1.8, 1.79, "reached in part"), (1.8, 1.81, "reached")],
)
def test_a_missed_aim_is_said(tmp_path, stash, average, word):
    speeds = made.SPEEDS | {"async/stash": (stash,) * 3, "async/ema-window": (average,) * 3}
    records = written(tmp_path, speeds=speeds | {"1f1b/4": (1.435,) * 3})  # times 1.25: 1.79375
    found = verdicts(records)
    assert found["2 processes against one"].word.startswith(f"{word}: ")
    assert found["Against torch's 1F1B and GPipe"].word.startswith(f"{word}: ")


def test_memory_is_held_against_peers_plain_training_and_the_stash(tmp_path, monkeypatch):
    found = verdicts(written(tmp_path))["Memory"]
    assert found.word == (
        "as modelled; all processes of an asynchronous pipeline together hold 2.9× to 3.0× as much as the thriftiest "
        "of torch's pipelines (zero-bubble, 2 micro-batches) and 3.0× to 3.2× as much as one process; "
        "EMA window saves 2.4 MB (5.0 %) of stash's peak"
    )
    assert "in MB: plain 15.0; GPipe, 2 micro-batches 21.0; " in found.evidence[0]
    assert (
        "; zero-bubble, 2 micro-batches 16.0; LayerPipe2, stash 48.0; LayerPipe2, EMA window 45.6." in found.evidence[0]
    )
    monkeypatch.setitem(made.PEAKS, "async/ema-window", [32.4e6, 18e6])
    few = {name: made.SPEEDS[name] for name in ("plain", "async/stash", "async/ema-window")}
    assert verdicts(written(tmp_path, speeds=few))["Memory"].word == (
        "as modelled; all processes of an asynchronous pipeline together hold 3.2× to 3.4× as much as one process; "
        "EMA window adds 2.4 MB (5.0 %) to stash's peak"
    )
    few = {name: made.SPEEDS[name] for name in ("plain", "1f1b/2")}
    assert verdicts(written(tmp_path, speeds=few))["Memory"].word == "as modelled"


def test_memory_that_the_model_misses_is_said(tmp_path):
    rows = [
        row | {"activations": row["activations"] + (row["stage"] == 0)} for row in made.stage_memory("async/stash", 4)
    ]
    found = verdicts(written(tmp_path, memory=rows))["Memory"]
    assert found.word.startswith("not as modelled; ")
    assert "equal the cost model NOT byte for byte" in found.evidence[0]


def test_what_was_not_measured_is_said_and_not_drawn(tmp_path):
    few = {name: made.SPEEDS[name] for name in ("plain", "1f1b/2", "async/stash", "exact/split")}
    records = written(tmp_path, speeds=few, memory=[], traces={})
    found = verdicts(records)
    for title in ("Against torch's 1F1B and GPipe", "Bubble", "Memory", "Split backward pass"):
        assert (found[title].answer, found[title].word) == (Answer.NOT_TESTED, "not measured")
    page = pipelines.build(records)
    page.write(tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"speed"}
    assert set(re.findall(r"\(figures/(\w+)", page.text)) == {"speed"}
    assert set(page.texts) == {"pipelines", "speed", "timeline", "memory", "method"}
    assert "[How much memory do the processes hold?](memory.md) | Memory is not measured." in page.text


def test_a_busy_machine_and_a_quick_run_are_verdicts(tmp_path):
    calm, busy, quick = (page_text(written(tmp_path, **c)) for c in ({}, {"load": 2.0}, {"quick": True}))
    assert "**Busy machine.** Other work kept 2.0 cores busy" in busy
    assert "**Quick run.**" in quick
    assert "**Busy" not in calm + quick
    assert "**Quick" not in calm + busy


def test_labels_name_peers_delays_and_options():
    assert label("zero-bubble-v/4") == "zero-bubble V, 4 micro-batches"
    assert label("async/latest/pipedream/groups") == "PipeDream, latest, equal groups"
    assert label("threads/2") == "plain, 2 threads"
    assert label("ddp") == "data parallel, DDP"
    assert label("exact/split") == "exact, split backward"


def test_a_missing_or_broken_record_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no record .*even\.json; measure first: make pipelines"):
        load(tmp_path)
    (tmp_path / "pipelines").mkdir()
    for text in ("{", "{}", "[]", '{"rows": 1, "traces": []}'):
        (tmp_path / "pipelines" / "even.json").write_text(text)
        with pytest.raises(UserError, match=r"even\.json cannot be read .*; measure again: make pipelines"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"network": "../../up"}, "network is '../../up'"),
        ({"traces": {"exact": "../even.json"}}, "part of a trace's path is '..'"),
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, changes, name):
    with pytest.raises(
        UserError, match=rf"even\.json cannot be read \(UserError: {name}; give a name: .*measure again"
    ):
        written(tmp_path, **changes)
