"""The commands that train nothing: stability, derive, schedule."""

import json
import re

import networkx as nx
import pytest

from layerpipe2.cli import main
from layerpipe2.cli.derive import FORMATS, explain
from layerpipe2.cli.schedule import _simulated
from layerpipe2.delays import DELAY_LAWS
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.proofs import prove
from layerpipe2.theory.stability import closed_form
from tests.cli.test_commands import found


def test_stability_gives_each_stage_its_bound_and_compares_with_sequential(capsys):
    content, text = found(capsys, "stability", "--group-size", "3", "--momentum", "0")
    shown = re.findall(r"^ +\d +3 +(\d) +([\d.]+) +[\d.]+ %$", text, re.MULTILINE)
    assert [(int(d), float(step)) for d, step in shown] == [(d, pytest.approx(closed_form(d), 1e-5)) for d in (4, 2, 0)]
    assert "sequential (delay 0): 2. " in text
    assert f"{2 / closed_form(4):.3g} times smaller" in text
    steps = [row["largest_stable_step"] for row in content["stages"]]
    assert [step for _, step in shown] == [f"{step:.6g}" for step in steps]
    assert (content["pipeline"], content["sequential"]) == (min(steps), steps[-1])
    assert (content["momentum"], content["nesterov"], content["convention"]) == (0, False, "layerpipe2")
    assert main(["stability", "--group-size", "3", "--nesterov"]) == 0
    assert capsys.readouterr().out != text


def test_derive_prints_the_steps_and_the_proofs(capsys):
    assert main(["derive", "--layers", "5", "--groups", "2,2,1"]) == 0
    text = capsys.readouterr().out
    assert "units per stage: 2, 2, 1" in text
    assert [line for line in text.splitlines() if line.startswith("step ")][2].startswith("step 2: delayed gradients")
    assert text.count("[holds]") == text.count("[") == 12


def test_derive_exports_the_graph_of_a_step(capsys):
    assert main(["derive", "--layers", "3", "--step", "2", "--export", "json"]) == 0
    edges = json.loads(capsys.readouterr().out)["edges"]
    assert [e["registers"] for e in edges if e["kind"] == "step"] == [4, 2, 0]


def test_schedule_compares_all(capsys):
    content, text = found(capsys, "schedule", "--processors", "3", "--batches", "6")
    rows = {row["schedule"]: row for row in content["schedules"]}
    assert list(rows) == list(SCHEDULES)  # and none is left out
    shown = re.findall(r"^ *(\S+) +([\d.]+) +\d+ %.* (\d+) +(\d+)$", text, re.M)
    assert [row[:2] for row in shown] == [(name, f"{row['time_per_batch']:.4g}") for name, row in rows.items()]
    cells = {row[0]: row[2:] for row in shown}
    assert (cells["pipedream"], cells["layerpipe2"]) == (("2", "3"), ("4", "5"))
    assert (rows["layerpipe2"]["delays"], rows["layerpipe2"]["in_flight"]) == ([4, 2, 0], [5, 3, 1])
    content, text = found(capsys, "schedule", "--processors", "3")
    assert {row["schedule"] for row in content["schedules"]} == SCHEDULES.keys() - {"interleaved"}
    *rest, last = text.splitlines()
    assert not any("interleaved" in line for line in rest)
    assert last == "interleaved is left out: --batches 8 is no multiple of 3"


def test_schedule_draws_one(capsys):
    content, text = found(capsys, "schedule", "pipedream", "--processors", "2", "--until", "6")
    lines = text.splitlines()
    assert lines[0].split() == ["time", *"012345"]
    assert lines[2].split()[2:] == [".", "F0", "BW0", "-", "F1", "BW1"]
    assert lines[3].startswith("F forward, B activation gradient, W weight gradient, BW both")
    begun = [f"{one['kind']}{one['batch']}" for one in content["actions"] if one["processor"] == 1]
    assert begun == ["F0", "BW0", "F1", "BW1"]
    assert content["delays"] == [1, 0]
    halves = ["schedule", "interleaved", "--processors", "2", "--batches", "2", "--until", "4"]
    times, first = found(capsys, *halves)[1].splitlines()[:2]
    assert times.split() == ["time", "0", "0.5", "1", "1.5", "2", "2.5", "3", "3.5"]
    assert first.split()[2:6] == ["F0", "F1", "F0", "F1"]


def test_schedule_compares_spikepipe_with_standard_pipelining(capsys):
    wanted = ["schedule", "spikepipe", "--network", "vgg", "--processors", "3", "--time-steps", "2"]
    assert main(wanted) == 0
    head, *lines, note = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["schedule", "steps", "per", "task"]
    cases = [" ".join(line.split()[:2]) for line in lines]
    assert cases == ["standard 2", "fixed 1", "together 1", "free 1", "together 2", "free 2"]
    assert lines[0].split()[3] == "1.00"
    assert note.startswith("speed: over standard pipelining")
    assert main([*wanted, "--array", "16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["schedules"]
    assert [row["placement"] for row in found][:2] == ["standard", "fixed"]
    assert found[0]["period"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("spikepipe --processors 0", "--processors: '0' is out of range; give an integer from 1 to 2048"),
        ("spikepipe --array 0", "--array: '0' is out of range; give an integer from 1 to 65536"),
        ("spikepipe --time-steps 0", "--time-steps: '0' is out of range; give an integer from 1 to 64"),
        ("spikepipe --network vg", "unknown spiking network 'vg'; did you mean 'vgg'?"),
        ("spikepipe --forward 2", "--forward is not for 'spikepipe', whose times come from --network, --array"),
        ("layerpipe2 --array 3", "--array is for 'spikepipe' alone; leave it out"),
        ("--network vgg", "--network is for 'spikepipe' alone; leave it out"),
        ("spikpipe", "unknown schedule 'spikpipe'; did you mean 'spikepipe'?"),
    ],
)
def test_schedule_refuses_what_does_not_fit(arguments, message, capsys):
    assert main(["schedule", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
@pytest.mark.parametrize(("processors", "batches"), [(1, 8), (4, 1), (8, 1), (20, 8)])
def test_a_schedule_shows_the_delays_of_a_full_pipeline(convention, processors, batches):
    found = _simulated(convention, processors, batches, (1.0, 1.0, 1.0)).schedule.delays()
    assert tuple(found) == DELAY_LAWS[convention].delays(processors)


def test_report_tables_and_exports():
    derivation = derive(3, convention="pipedream")
    report = explain(derivation)
    assert "step 2t" in report
    assert "3 take a delayed gradient" in report
    assert "step 4.3" not in explain(derive(6))
    assert report.count("[holds]") == len(prove(derivation))
    graph = derivation.pipeline
    assert FORMATS["table"](graph).splitlines()[1].split() == ["0", "0", "0", "1", "6", "0", "0", "5", "5"]
    assert len(FORMATS["edges"](graph).splitlines()) == 1 + len(list(graph.edges))
    data = json.loads(FORMATS["json"](graph))
    assert {(e["source"], e["target"], e["kind"]): e["registers"] for e in data["edges"]} == graph.registers
    again = nx.parse_graphml(FORMATS["graphml"](graph), force_multigraph=True)
    assert sum(again.edges[e]["registers"] for e in again.edges) == sum(graph.registers.values())
    assert '"U0" -> "A0" [kind="history", label="6D"]' in FORMATS["dot"](graph)
    assert set(FORMATS) == {"table", "edges", "dot", "json", "graphml"}
