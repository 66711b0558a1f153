"""Figures, tables and page of measured pipelines, from records made by hand."""

import json
import re

import pytest

from layerpipe2.errors import UserError
from paper_figures import render
from paper_figures.pipelines import answers, build, claims, memory, tables
from paper_figures.pipelines.bubble import steady
from paper_figures.pipelines.page import page
from paper_figures.pipelines.records import load
from paper_figures.pipelines.variants import label
from tests.pipelines import made_measurements as made

FIGURES = {"speed", "memory", "timeline", "timeline_split", "time_to_target"}


def written(folder, **changes):
    made.write(folder, **changes)
    return load(folder, "even")


def told(records):
    return {claim.title: claim for claim in claims.claims(records)}


def test_the_same_records_give_the_same_bytes(tmp_path):
    (tmp_path / "records").mkdir()
    made.write(tmp_path / "records")
    found = []
    for name in ("a", "b"):
        arguments = ["--records", str(tmp_path / "records"), "--out", str(tmp_path / name)]
        build.main(arguments)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert {path.removeprefix("figures/")[:-4] for path in found[0] if path.endswith(".png")} == FIGURES
    text = found[0]["pipelines.md"].decode()
    assert set(re.findall(r"\(figures/(\w+)\.png\)", text)) == FIGURES
    assert found[0]["tables/speed.csv"].decode().splitlines()[0].startswith("variant,kind,samples/s,speed over plain,")
    assert found[0]["tables/memory.md"].decode().startswith("| strategy | processes | stage | delay |")
    assert json.loads(found[0]["verdicts.json"])["2 processes against one"] == "reached"
    assert found[0]["pipelines.html"].decode().count("data:image/svg+xml") == len(FIGURES)


def test_verdicts_follow_the_numbers(tmp_path):
    found = told(written(tmp_path))
    plain = found["2 processes against one"]
    assert plain.word == answers.REACHED
    assert "LayerPipe2, stash: 1.88× (1.79–1.90, n=3), in 2 of 3 rounds" in plain.text
    torch = found["Against torch's 1F1B and GPipe"]
    assert torch.word == answers.REACHED
    assert "LayerPipe2, EMA window: at least 1.28× (1.28–1.29, n=3), over 1F1B, 4 micro-batches" in torch.text
    assert found["Bubble"].word == "smaller"
    assert "LayerPipe2, stash: 6 % of 50.0 ms" in found["Bubble"].text
    assert "LayerPipe2, stash 2.00 and 6.00; LayerPipe2, EMA window 1.00 and 1.00." in found["Memory"].text
    assert found["Balanced stages, VGG-16"].word == "faster"
    assert found["Split backward pass"].word == "LayerPipe2, EMA window: no difference shown; exact: pays"


def test_predictions_of_all_networks_are_told(tmp_path):
    found = told(written(tmp_path))["Predicted against measured speed"]
    assert found.word == "5 of 6 within 10 %"
    assert (
        "synchronous: -2 %; asynchronous: -5 % to -4 %; no delays: -3 %; VGG-16, asynchronous: -29 % to -3 %."
        in found.text
    )
    assert found.text.endswith("Furthest off: LayerPipe2, latest, equal groups on VGG-16, -29 %.")


def test_faster_to_an_accuracy_is_said_of_every_seed_and_every_rival(tmp_path):
    found = told(written(tmp_path))["Time to accuracy"]
    assert found.word == "faster than one process only with stash; not faster than 1F1B, 4 micro-batches"
    assert "LayerPipe2, EMA window: missed by 1 of 2 seeds" in found.text
    assert "Over 1F1B, 4 micro-batches: LayerPipe2, stash: 1.00× (0.94–1.07, n=2); " in found.text


@pytest.mark.parametrize(
    ("peer", "word"),
    [((7.5, 8.5), "faster than 1F1B, 4 micro-batches"), ((7.5, None), "not faster than 1F1B, 4 micro-batches")],
)
def test_a_rival_that_missed_the_accuracy_shows_nothing(tmp_path, monkeypatch, peer, word):
    monkeypatch.setattr(made, "TARGETS", {"plain": (10.0, 12.0), "1f1b/4": peer, "async/stash": (7.0, 8.0)})
    assert told(written(tmp_path))["Time to accuracy"].word == f"faster than one process; {word}"


def test_one_process_of_as_many_threads_is_a_rival_if_measured(tmp_path):
    records = written(tmp_path)
    text = told(records)["2 processes against one"].text
    assert "One process of 2 threads runs at 1.60× (1.50–1.70, n=3); over it, LayerPipe2, stash has 1.19× (" in text
    assert "'plain, 2 threads' is plain training in one process" in render.markdown(page(records))
    without = written(tmp_path, speeds={name: made.SPEEDS[name] for name in ("plain", "async/stash")})
    assert "runs at" not in told(without)["2 processes against one"].text
    assert "One process of 2 threads, which anybody would try first, was not" in render.markdown(page(without))


@pytest.mark.parametrize(
    ("stash", "average", "word"),
    [(1.79, 1.7, answers.MISSED), (1.8, 1.79, answers.IN_PART), (1.8, 1.81, answers.REACHED)],
)
def test_a_missed_aim_is_said(tmp_path, stash, average, word):
    speeds = made.SPEEDS | {"async/stash": (stash,) * 3, "async/ema-window": (average,) * 3}
    records = written(tmp_path, speeds=speeds | {"1f1b/4": (1.435,) * 3})  # times 1.25: 1.79375
    found = told(records)
    assert found["2 processes against one"].word == word
    assert found["Against torch's 1F1B and GPipe"].word == word
    assert f"**2 processes against one: {word}.**" in render.markdown(page(records))


def test_what_was_not_measured_is_said_and_not_drawn(tmp_path):
    few = {name: made.SPEEDS[name] for name in ("plain", "1f1b/2", "async/stash", "exact/split")}
    records = written(tmp_path, speeds=few, memory=[], traces={})
    found = told(records)
    for title in ("Against torch's 1F1B and GPipe", "Bubble", "Memory", "Split backward pass"):
        assert found[title].word == answers.NOT_MEASURED
    build.build(records, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"speed", "time_to_target"}
    shown = re.findall(r"\(figures/(\w+)", (tmp_path / "out" / "pipelines.md").read_text())
    assert set(shown) == {"speed", "time_to_target"}


def test_memory_is_held_against_peers_plain_training_and_the_stash(tmp_path, monkeypatch):
    found = told(written(tmp_path))["Memory"]
    assert found.word == (
        "as modelled; all processes of an asynchronous pipeline together hold 2.9× to 3.0× as much as the thriftiest "
        "of torch's pipelines (zero-bubble, 2 micro-batches) and 3.0× to 3.2× as much as one process; "
        "EMA window saves 2.4 MB (5.0 %) of stash's peak"
    )
    assert "in MB: plain 15.0; GPipe, 2 micro-batches 21.0; " in found.text
    assert "; zero-bubble, 2 micro-batches 16.0; LayerPipe2, stash 48.0; LayerPipe2, EMA window 45.6." in found.text
    monkeypatch.setitem(made.PEAKS, "async/ema-window", [32.4e6, 18e6])
    few = {name: made.SPEEDS[name] for name in ("plain", "async/stash", "async/ema-window")}
    assert told(written(tmp_path, speeds=few))["Memory"].word == (
        "as modelled; all processes of an asynchronous pipeline together hold 3.2× to 3.4× as much as one process; "
        "EMA window adds 2.4 MB (5.0 %) to stash's peak"
    )
    few = {name: made.SPEEDS[name] for name in ("plain", "1f1b/2")}
    assert told(written(tmp_path, speeds=few))["Memory"].word == "as modelled"


def test_memory_that_the_model_misses_is_said(tmp_path):
    rows = [row | {"activations": row["activations"] + (row["stage"] == 0)} for row in made.held("async/stash", 4)]
    found = told(written(tmp_path, memory=rows))["Memory"]
    assert found.word.startswith("not as modelled; ")
    assert "equal the cost model NOT byte for byte" in found.text


def test_a_busy_machine_and_a_quick_run_are_told(tmp_path):
    calm, busy, quick = (render.markdown(page(written(tmp_path, **c))) for c in ({}, {"load": 2.0}, {"quick": True}))
    assert "**Busy machine.** The load average was 2.0" in busy
    assert "**Quick run.**" in quick
    assert "**Busy" not in calm + quick
    assert "**Quick" not in calm + busy


def test_tables(tmp_path):
    records = written(tmp_path)
    rows = tables.speeds(records.main).set_index("variant").T.to_dict()
    assert list(rows)[:3] == ["plain", "plain, 4 micro-batches", "plain, 2 threads"]
    assert (rows["plain, 2 threads"]["kind"], rows["plain, 2 threads"]["predicted"]) == ("one process", "–")
    assert rows["LayerPipe2, stash"]["speed over plain"] == "1.88× (1.79–1.90, n=3)"
    assert rows["LayerPipe2, stash"]["samples/s"] == f"{64 * 18.8:.0f}"
    assert rows["LayerPipe2, stash"]["torch's peak by process (MB)"] == "30.0 + 18.0"
    assert rows["exact, split backward"]["predicted"] == "–"
    held = tables.memory(records.main)
    first = held[(held["strategy"] == "LayerPipe2, stash") & (held["processes"] == "4")].iloc[0]
    assert (first["delay"], first["copies of the weights"]) == ("6", "6.00 (6.00)")
    assert (first["activations (kB)"], first["history (kB)"]) == ("3.5", "6.0 (6.0)")
    idle = tables.idle(records.main).set_index("variant")
    assert (idle.loc["1F1B, 4 micro-batches", "idle"], idle.loc["exact", "ms per mini-batch"]) == ("30.0 %", "100.0")
    late = tables.targets(records.main).set_index("variant")
    assert late.loc["LayerPipe2, EMA window", "missed"] == "1 of 2 seeds"
    assert late.loc["LayerPipe2, stash", "training time (s), median"] == "7.5"


def test_idle_time_is_what_the_spans_leave(tmp_path):
    found = steady(written(tmp_path).main.traces["gpipe/4"])
    assert found.period == pytest.approx(80)
    assert found.idle == pytest.approx((0.4, 0.4), abs=1e-3)
    assert found.batches == 18 - 1 - 2 - 6


def test_totals_tell_copies_of_a_stages_weights(tmp_path):
    table = memory.totals(written(tmp_path).main.memory)
    assert (table["total"] == table["rest"] + table["history"]).all()
    assert sorted(set(table["modelled_copies"])) == [0, 1, 2, 4, 6]


def test_labels_name_peers_delays_and_options():
    assert label("zero-bubble-v/4") == "zero-bubble V, 4 micro-batches"
    assert label("async/latest/pipedream/groups") == "PipeDream, latest, equal groups"
    assert label("threads/2") == "plain, 2 threads"
    assert label("exact/split") == "exact, split backward"


def test_a_missing_or_broken_record_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no record .*even\.json; measure first: make pipelines"):
        load(tmp_path, "even")
    for text in ("{", "{}", "[]"):
        (tmp_path / "even.json").write_text(text)
        with pytest.raises(UserError, match=r"even\.json is broken .*; measure again: make pipelines"):
            load(tmp_path, "even")
