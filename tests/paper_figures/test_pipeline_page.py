"""Figures, tables and page of measured pipelines, from records made by hand."""

import json
import re

import pytest

from layerpipe2.errors import UserError
from paper_figures import build
from paper_figures.pages.pipelines import page
from paper_figures.records.pipelines import load
from paper_figures.tables import pipelines as tables
from paper_figures.variant_style import label
from paper_figures.verdicts import Answer
from tests.paper_figures import made_pipelines as made
from tests.paper_figures.made_pipelines import page_text, verdicts, written

FIGURES = {"speed", "memory", "timeline", "timeline_split"}


def test_the_page_has_its_figures_tables_and_verdicts(tmp_path):
    made.write(tmp_path / "pipelines")
    build.main(["page", "pipelines", "--results", str(tmp_path), "--out", str(tmp_path)])
    found = {path.name: path for path in (tmp_path / "pipelines").rglob("*")}
    assert {path.stem for path in found.values() if path.suffix == ".svg"} == FIGURES
    assert set(re.findall(r"\(figures/(\w+)\.svg\)", found["pipelines.md"].read_text())) == FIGURES
    assert found["pipelines.html"].read_text().count("data:image/svg+xml") == len(FIGURES)
    assert found["speed.csv"].read_text().startswith("variant,kind,samples/s,speed over plain,")
    assert found["memory.md"].read_text().startswith("| strategy | processes | stage | delay |")
    assert json.loads(found["verdicts.json"].read_text())["2 processes against one"].startswith("reached: ")


def test_what_was_not_measured_is_said_and_not_drawn(tmp_path):
    few = {name: made.SPEEDS[name] for name in ("plain", "1f1b/2", "async/stash", "exact/split")}
    records = written(tmp_path, speeds=few, memory=[], traces={})
    found = verdicts(records)
    for title in ("Against torch's 1F1B and GPipe", "Bubble", "Memory", "Split backward pass"):
        assert (found[title].answer, found[title].word) == (Answer.NOT_TESTED, "not measured")
    page(records).write(tmp_path / "out")
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
    rows = tables.speeds(records.main).set_index("variant").T.to_dict()
    assert list(rows)[:3] == ["plain", "plain, 4 micro-batches", "plain, 2 threads"]
    assert (rows["plain, 2 threads"]["kind"], rows["plain, 2 threads"]["predicted"]) == ("one process", "–")
    assert rows["LayerPipe2, stash"]["speed over plain"] == "1.88× (1.79–1.90, n=3)"
    assert rows["LayerPipe2, stash"]["samples/s"] == f"{64 * 18.8:.0f}"
    assert rows["LayerPipe2, stash"]["torch's peak by process (MB)"] == "30.0 + 18.0"
    assert rows["exact, split backward"]["predicted"] == "–"
    memory = tables.memory(records.main)
    first = memory[(memory["strategy"] == "LayerPipe2, stash") & (memory["processes"] == "4")].iloc[0]
    assert (first["delay"], first["copies of the weights"]) == ("6", "6.00 (6.00)")
    assert (first["activations (kB)"], first["history (kB)"]) == ("3.5", "6.0 (6.0)")
    totals = tables.totals(records.main.memory)
    assert (totals["total"] == totals["rest"] + totals["history"]).all()
    assert sorted(set(totals["modelled_copies"])) == [0, 1, 2, 4, 6]
    idle = tables.idle(records.main).set_index("variant")
    assert (idle.loc["1F1B, 4 micro-batches", "idle"], idle.loc["exact", "ms per mini-batch"]) == ("30.0 %", "100.0")


def test_bytes_of_all_processes_are_told_apart_where_they_are_known(tmp_path):
    held = [{"peak": 30_000_000, "parameters": 4_000_000, "optimizer": 4_000_000, "history": 8_000_000}] * 2
    rows = [made.row(name, made.SPEEDS[name], None) | {"held_bytes": held} for name in ("plain", "async/stash")]
    row = tables.speeds(written(tmp_path, rows=rows, memory=[], traces={}).main).iloc[1]
    cells = {"together": "60.0", "weights": "8.0", "optimizer": "8.0", "history": "16.0"}
    assert {name: row[f"{name} (MB)"] for name in cells} == cells
    assert row["activations, gradients, messages (MB)"] == "28.0"
    rows = [made.row(name, speeds, None) | {"held_bytes": held} for name, speeds in made.SPEEDS.items()]
    said = verdicts(written(tmp_path, rows=rows))["Memory"].evidence[0]
    assert "Activations in flight are 27 % to 54 % of what first stages hold" in said
    assert "With half the delay PipeDream, EMA window, has 21.0 MB instead of 45.6. " in said
    assert "With activations computed again LayerPipe2, stash, recomputed, has 38.0 MB instead of 48.0." in said
    assert "together (MB)" not in tables.speeds(written(tmp_path).main)  # of a record without them


def test_idle_time_is_what_the_spans_leave(tmp_path):
    found = written(tmp_path).main.steady["gpipe/4"]
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
        load(tmp_path, "even")
    for text in ("{", "{}", "[]", '{"rows": 1, "traces": []}'):
        (tmp_path / "even.json").write_text(text)
        with pytest.raises(UserError, match=r"even\.json is broken .*; measure again: make pipelines"):
            load(tmp_path, "even")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"network": "../../up"}, "network is '../../up'"),
        ({"traces": {"exact": "../even.json"}}, "part of a trace's path is '..'"),
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, changes, name):
    with pytest.raises(UserError, match=rf"even\.json is broken \(UserError: {name}; give a name: .*measure again"):
        written(tmp_path / "pipelines", **changes)
