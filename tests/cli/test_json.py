"""``--json``: what a command prints as tables, for programs."""

import json
import re

import pytest

from layerpipe2 import STRATEGIES, Delays
from layerpipe2.cli import main
from layerpipe2.planning.schedules import SCHEDULES

CASES = {
    "info": ["info"],
    "delays": ["delays", "--group-size", "3", "--ticks", "4"],
    "custom": ["delays", "--group-size", "3", "--convention", "custom", "--delays", "4,1,0"],
    "advise": ["advise", "--group-size", "5", "--steps", "8", "--strategies", "ema-span"],
    "stability": ["stability", "--group-size", "4"],
    "schedules": ["schedule", "--batches", "6"],
    "schedule": ["schedule", "gpipe", "--until", "4"],
}


@pytest.fixture
def found(request, capsys):
    """Command -> its JSON and its text."""

    def run(case):
        assert main([*CASES[case], "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert main(CASES[case]) == 0
        return content, capsys.readouterr().out

    return run


def test_delays(found):
    content, text = found("delays")
    assert [row["delay"] for row in content["stages"]] == [4, 2, 0]
    assert [row["units"] for row in content["stages"]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    shown = re.findall(r"^ +\d  +(\S+)  +([\d,]+)  +\d+$", text, re.M)
    units = ("0-2", "3-5", "6-8")
    assert shown == [(u, f"{row['parameters']:,d}") for u, row in zip(units, content["stages"], strict=True)]
    assert re.search(r"^stage 2 +F0B0", text, re.M)
    assert content["copies"].keys() == STRATEGIES.keys() - {"sequential"}
    assert re.search(rf"^stash +{content['copies']['stash']:.2f}$", text, re.M)
    assert content["grid"] == [["F0", "F1", "F2", "F3"], ["", "F0", "F1", "F2B0"], ["", "", "F0B0", "F1B1"]]


def test_delays_of_your_own(found):
    content, _ = found("custom")
    assert (content["convention"], content["network"], content["dataset"]) == ("custom", "mlp", "digits")
    assert content["grid"] == Delays.custom([4, 1, 0]).cells(7)


def test_info(found):
    content, text = found("info")
    assert content["strategies"] == {name: row.description for name, row in STRATEGIES.items()}
    assert content["dataset"]["input_shape"] == [1, 8, 8]
    assert "{train} + {test} {kind}".format_map(content["dataset"]) in text
    for name in (*content["networks"], *content["datasets"], content["device"], content["versions"]["torch"]):
        assert name in text


def test_stability(found):
    content, text = found("stability")
    steps = [row["largest_stable_step"] for row in content["stages"]]
    assert re.findall(r"^ +\d +\d +\d +(\S+) ", text, re.M) == [f"{step:.6g}" for step in steps]
    assert content["pipeline"] == min(steps)
    assert content["sequential"] == steps[-1]
    assert (content["momentum"], content["nesterov"], content["convention"]) == (0.9, False, "layerpipe2")


def test_advice(found):
    content, text = found("advise")
    assert [sentence in text for sentence in content["sentences"]] == [True] * 3
    assert [row["updates"] for row in content["rows"]] == [2, 4, 6, 8]
    for row in content["rows"]:
        shown = re.search(rf"^ +{row['updates']} +(\S+) +(\S+)$", text, re.M).groups()
        assert shown == tuple(f"{row['losses'][name]:.3g}" for name in ("stash", "ema-span"))
    (stage,) = content["stages"]
    found = {one["updates"]: one for one in stage["qualities"]["ema-span"]}
    cells = [f"{found[n][what]:.3g}" if n in found else "-" for what in QUALITIES for n in (2, 4, 6, 8)]
    assert re.search(r"^ +0 +2 +ema-span +(.*)$", text, re.M)[1].split() == cells
    saved = stage["megabytes"]["stash"] - stage["megabytes"]["ema-span"]
    assert f"{stage['parameters']:,d}  " in text
    assert f"{saved:.3g}" in text


QUALITIES = ("recall_error", "gradient_cosine")


def test_schedules(found):
    content, text = found("schedules")
    rows = {row["schedule"]: row for row in content["schedules"]}
    assert rows.keys() == SCHEDULES.keys() - {"interleaved"}
    assert re.findall(r"^ *(\S+) +([\d.]+) +\d+ %", text, re.M) == [
        (name, f"{row['time_per_batch']:.4g}") for name, row in rows.items()
    ]
    assert (rows["layerpipe2"]["delays"], rows["layerpipe2"]["in_flight"]) == ([6, 4, 2, 0], [7, 5, 3, 1])


def test_a_schedule(found):
    content, text = found("schedule")
    begun = [f"{one['kind']}{one['batch']}" for one in content["actions"] if one["processor"] == 0]
    assert re.search(r"^processor 0 +(.*)$", text, re.M)[1].split() == begun == ["F0", "F1", "F2", "F3"]
    assert content["delays"] == [0, 0, 0, 0]
