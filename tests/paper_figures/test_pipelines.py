"""Measured pipelines, from records made by hand: verdicts, tables and page follow the numbers."""

import re

import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines import memory, speed, timeline
from paper_figures.pipelines.benchmark import load, pipelines
from paper_figures.variant_style import label
from paper_figures.verdicts import Answer
from tests.paper_figures import made_pipelines as made
from tests.paper_figures.made_pipelines import page_text, verdicts, written


def test_verdicts_follow_the_numbers(tmp_path):
    found = verdicts(written(tmp_path))
    words = {
        "2 processes against one": "reached: 1.86× to 1.88×, aim 1.8×",
        "Against torch's 1F1B and GPipe": "reached: 1.28× to 1.29×, aim 1.25×",
        "Bubble": "smaller",
        "Balanced stages, VGG-16": "faster",
        "Split backward pass": "LayerPipe2, EMA window: no difference shown; exact: pays",
        "Predicted against measured speed": "5 of 6 within 10 %",
    }
    assert {title: found[title].word for title in words} == words
    plain, torch, bubble, _, _, predicted = (found[title].evidence[0] for title in words)
    assert "LayerPipe2, stash: 1.88× (1.79–1.90, n=3), in 2 of 3 rounds" in plain
    assert "LayerPipe2, EMA window 1.28× (1.28–1.29, n=3), over 1F1B, 4 micro-batches" in torch
    assert "LayerPipe2, stash: 6 % of 50.0 ms" in bubble
    assert "LayerPipe2, stash 2.00 and 6.00; LayerPipe2, EMA window 1.00 and 1.00." in found["Memory"].evidence[0]
    spans = "synchronous: -2 %; asynchronous: -5 % to -4 %; no delays: -3 %; VGG-16, asynchronous: -29 % to -3 %."
    assert spans in predicted
    assert predicted.endswith("Furthest off: LayerPipe2, latest, equal groups on VGG-16, -29 %.")


def test_one_process_of_as_many_threads_is_a_rival_if_measured(tmp_path):
    records = written(tmp_path)
    text = verdicts(records)["2 processes against one"].evidence[0]
    assert "One process of 2 threads runs at 1.60× (1.50–1.70, n=3); over it: LayerPipe2, stash 1.19× (" in text
    assert "'plain, 2 threads' is plain training in one process" in page_text(records)
    without = written(tmp_path, speeds={name: made.SPEEDS[name] for name in ("plain", "async/stash")})
    assert "runs at" not in verdicts(without)["2 processes against one"].evidence[0]
    assert "One process of 2 threads, which anybody would try first, was not" in page_text(without)


@pytest.mark.parametrize(
    ("average", "micro_batches", "words"),
    [
        (2.0, 1.1, None),
        (2.01, 1.1, "on less memory at a time, one process is faster too, 1.10× (1.10–1.10, n=3)."),
        (2.01, 1.0, "of which each process of a pipeline has a part; nothing measured here shows it."),
    ],
)
def test_more_than_the_number_of_processes_is_explained_as_far_as_measured(tmp_path, average, micro_batches, words):
    changed = {"async/ema-window": (average,) * 3, "plain/4": (micro_batches,) * 3}
    text = verdicts(written(tmp_path, speeds=made.SPEEDS | changed))["2 processes against one"].evidence[0]
    assert ("Medians above 2×, the number of processes: LayerPipe2, EMA window. That can be" in text) == bool(words)
    assert text.endswith(words or "n=3).")


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
    assert f"**2 processes against one: {word}: " in page_text(records)


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
    pipelines.build(records).write(tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"speed"}
    shown = re.findall(r"\(figures/(\w+)", (tmp_path / "out" / "pipelines.md").read_text())
    assert set(shown) == {"speed"}


def test_a_busy_machine_and_a_quick_run_are_verdicts(tmp_path):
    calm, busy, quick = (page_text(written(tmp_path, **c)) for c in ({}, {"load": 2.0}, {"quick": True}))
    assert "**Busy machine.** Other work kept 2.0 cores busy" in busy
    assert "**Quick run.**" in quick
    assert "**Busy" not in calm + quick
    assert "**Quick" not in calm + busy


def test_tables(tmp_path):
    records = written(tmp_path)
    rows = speed.speed_table(records["bench"]).set_index("variant").T.to_dict()
    assert list(rows)[:3] == ["plain", "plain, 4 micro-batches", "plain, 2 threads"]
    assert (rows["plain, 2 threads"]["kind"], rows["plain, 2 threads"]["predicted"]) == ("one process", "–")
    assert rows["LayerPipe2, stash"]["speed over plain"] == "1.88× (1.79–1.90, n=3)"
    assert rows["LayerPipe2, stash"]["samples/s"] == f"{64 * 18.8:.0f}"
    assert rows["LayerPipe2, stash"]["torch's peak by process (MB)"] == "30.0 + 18.0"
    assert rows["exact, split backward"]["predicted"] == "–"
    held = memory.memory_table(records["bench"])
    first = held[(held["strategy"] == "LayerPipe2, stash") & (held["processes"] == "4")].iloc[0]
    assert (first["delay"], first["copies of the weights"]) == ("6", "6.00 (6.00)")
    assert (first["activations (kB)"], first["history (kB)"]) == ("3.5", "6.0 (6.0)")
    totals = memory.totals(records["bench"].memory)
    assert (totals["total"] == totals["rest"] + totals["history"]).all()
    assert sorted(set(totals["modelled_copies"])) == [0, 1, 2, 4, 6]
    idle = timeline.idle_table(records["bench"]).set_index("variant")
    assert (idle.loc["1F1B, 4 micro-batches", "idle"], idle.loc["exact", "ms per mini-batch"]) == ("30.0 %", "100.0")


def test_bytes_of_all_processes_are_told_apart_where_they_are_known(tmp_path):
    held = [{"peak": 30_000_000, "parameters": 4_000_000, "optimizer": 4_000_000, "history": 8_000_000}] * 2
    rows = [made.row(name, made.SPEEDS[name], None) | {"held_bytes": held} for name in ("plain", "async/stash")]
    row = speed.speed_table(written(tmp_path, rows=rows, memory=[], traces={})["bench"]).iloc[1]
    cells = {"together": "60.0", "weights": "8.0", "optimizer": "8.0", "history": "16.0"}
    assert {name: row[f"{name} (MB)"] for name in cells} == cells
    assert row["activations, gradients, messages (MB)"] == "28.0"
    rows = [made.row(name, speeds, None) | {"held_bytes": held} for name, speeds in made.SPEEDS.items()]
    said = verdicts(written(tmp_path, rows=rows))["Memory"].evidence[0]
    assert "Activations in flight are 27 % to 54 % of what first stages hold" in said
    assert "With half the delay PipeDream, EMA window, has 21.0 MB instead of 45.6. " in said
    assert "With activations computed again LayerPipe2, stash, recomputed, has 38.0 MB instead of 48.0." in said
    assert "together (MB)" not in speed.speed_table(written(tmp_path)["bench"])  # of a record without them


def test_idle_time_is_what_the_spans_leave(tmp_path):
    found = written(tmp_path)["bench"].steady["gpipe/4"]
    assert found.period == pytest.approx(80)
    assert found.idle == pytest.approx((0.4, 0.4), abs=1e-3)
    assert found.batches == 18 - 1 - 2 - 6


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
