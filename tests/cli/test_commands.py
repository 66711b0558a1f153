"""The commands that train, plan a pipeline or look at this machine: their tables, and the same as JSON."""

import json
import re
import resource

import pytest

from layerpipe2 import STRATEGIES, Delays
from layerpipe2.cli import balance, main
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.planning import Link
from layerpipe2.planning.choices import Choice
from layerpipe2.planning.machine import Machine
from tests.sampling import sampled

QUICK = ["train", "--width", "8", "--group-size", "3", "--epochs", "1", "--batch-size", "128", "--quiet"]


def test_train_writes_a_record_and_prints_a_summary(tmp_path, capsys):
    out = tmp_path / "deep" / "run.json"
    assert main([*QUICK, "--strategy", "ema-window", "--no-augment", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    expected = RunConfig(width=8, group_size=3, epochs=1, batch_size=128, strategy="ema-window")
    assert record["config"] == expected.to_dict()
    text = capsys.readouterr().out
    assert "delays (updates, layerpipe2): [4, 2, 0]" in text
    assert f"test accuracy {record['test']['accuracy']:.2%} of 450 images" in text


def test_train_loses_no_result_to_a_full_disk(tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert main([*QUICK, "--out", str(tmp_path / "run.json")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = capsys.readouterr()
    assert "test accuracy " in found.out
    assert found.err.startswith("layerpipe2: error: ")
    assert "run.json can't be written (File too large)" in found.err
    assert found.err.count("\n") == 1
    assert json.loads(found.out.splitlines()[-1])["status"] == "completed"
    assert not list(tmp_path.iterdir())


def test_train_says_where_the_data_comes_from_and_that_a_run_diverged(capsys):
    assert main([*QUICK[:-1], "--lr", "1e15", "--weight-decay", "1e15"]) == 0
    captured = capsys.readouterr()
    assert "digits: reading scikit-learn's digits" in captured.err
    assert "diverged: epoch 0, mini-batch 1: the outputs of stage 2 are not finite" in captured.out


@pytest.mark.parametrize("command", [["delays"], ["schedule", "layerpipe2"]])
def test_a_chart_fits_the_terminal_and_has_what_is_asked_for(command, capsys, monkeypatch):
    widths = []
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(command) == 0
        widths.append(max(len(line) for line in capsys.readouterr().out.splitlines() if line.startswith(CHARTED)))
    assert 50 < widths[0] <= 60 < widths[1] <= 80
    assert main([*command, {"delays": "--ticks", "schedule": "--until"}[command[0]], "25"]) == 0
    assert re.search(r"  24$", capsys.readouterr().out, re.MULTILINE)


CHARTED = ("tick", "time", "stage", "processor")
SHOWN = [("resnet-small", "digits", 2, 8, 3), ("gpt", "python-docs", 16, 10, 4)]


@pytest.mark.parametrize(
    ("network", "dataset", "width", "count", "group"),
    sampled(SHOWN, SHOWN[:1]),
)
def test_balance_shows_units_stages_and_the_predicted_speed(network, dataset, width, count, group, capsys, monkeypatch):
    monkeypatch.setattr(Machine, "measured", lambda processes, run: Machine())
    monkeypatch.setattr(balance.os, "sched_getaffinity", lambda process: range(3))
    what = ["--network", network, "--dataset", dataset, "--width", str(width), "--batch-size", "4"]
    assert main(["balance", *what, "--stages", "3", "--repeats", "1", "--recompute-activations"]) == 0
    text = capsys.readouterr().out
    assert f"{network} for {dataset}: {count} units, mini-batches of 4, sgd, strategy stash, 1 thread(s)" in text
    assert "the last stage has no history and recomputes nothing\n" in text
    units = re.findall(r"^ +(\d)  +(\d)  +[\d,]+  +[\d.]+(?:  +-?[\d.]+){4}$", text, re.MULTILINE)
    assert [unit for unit, _ in units] == list("0123456789"[:count])
    assert sorted({stage for _, stage in units}) == ["0", "1", "2"]
    assert re.search(r"3 processes of one stage each: predicted [\d.]+ ms, \d\.\d\dx", text)
    assert re.search(rf"by group size {group} \(3 stages\): predicted \d\.\d\dx", text)
    choices = re.findall(r"^(plain.*?|LayerPipe2.*?|data.*?)  +[\d.]+  +[\d.]+x  +[\d.]+$", text, re.MULTILINE)
    histories = ["LayerPipe2, stash, recomputed", "LayerPipe2, stash", "LayerPipe2, latest", "LayerPipe2, EMA window"]
    assert choices == ["plain", "plain, 3 threads", *histories]  # three processes share no mini-batch of four
    assert "\nFastest, if nothing else runs: " in text


CHOICES = [Choice("plain", 0.02, 3e6), Choice("threads/2", 0.0104, 3e6), Choice("async/stash", 0.01, 2e6)]


def test_balance_ends_with_the_fastest_choice_and_its_conditions():
    text = balance.sentence(CHOICES)
    assert "LayerPipe2, stash, 10.00 ms per mini-batch, 2.00x one process and 1.04x the next (plain, 2 threads)" in text
    assert "; so close that only a measurement tells. LayerPipe2's gradients are late, so that training" in text
    assert "advise" not in balance.sentence([*CHOICES[:2], Choice("ddp", 0.015, 4e6)])
    assert balance.choice_table(CHOICES).splitlines()[2] == "plain, 2 threads   10.40  1.92x  3.0"


def test_balance_takes_the_link_between_machines_from_its_options(monkeypatch, capsys):
    monkeypatch.setattr(balance.os, "sched_getaffinity", lambda process: range(2))
    here = Machine(alone=8e9, together=4e9, local=Link(2e9, 3e-5), link=Link(2e9, 3e-5))
    monkeypatch.setattr(Machine, "measured", lambda processes, run: here)
    monkeypatch.setattr(balance.os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    small = ["balance", "--width", "4", "--batch-size", "8", "--repeats", "1"]
    for more, line in (
        ([], "8.0 GB/s for one process, 4.0 GB/s for each of all; link 2 GB/s, 0.03 ms\n"),
        (["--gigabits", "1"], "as fast as this one; memory 8.0 GB/s for one process; link 0.125 GB/s, 0.03 ms\n"),
        (["--gigabits", "10", "--latency", "0.5"], "link 1.25 GB/s, 0.5 ms\n"),
        (["--threads", "2"], "on a machine as fast as this one, with 4 cores (this one has 2); memory"),
    ):
        assert main([*small, *more]) == 0
        text = capsys.readouterr().out
        assert line in text
        assert ("plain, 2 threads" in text) == (not more)
        assert "zero-bubble, 4 micro-batches" in text
        assert "(load average 3.0): do not trust these times" in text


def found(capsys, *command):
    """The command's JSON and its text."""
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert main([*command]) == 0
    return content, capsys.readouterr().out


def test_delays(capsys):
    content, text = found(capsys, "delays", "--group-size", "3", "--ticks", "4")
    assert [row["delay"] for row in content["stages"]] == [4, 2, 0]
    assert [row["units"] for row in content["stages"]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    shown = re.findall(r"^ +\d  +(\S+)  +([\d,]+)  +\d+$", text, re.M)
    units = ("0-2", "3-5", "6-8")
    assert shown == [(u, f"{row['parameters']:,d}") for u, row in zip(units, content["stages"], strict=True)]
    assert re.search(r"^stage 2 +F0B0", text, re.M)
    assert content["copies"].keys() == STRATEGIES.keys() - {"sequential"}
    assert re.search(rf"^stash +{content['copies']['stash']:.2f}$", text, re.M)
    assert content["grid"] == [["F0", "F1", "F2", "F3"], ["", "F0", "F1", "F2B0"], ["", "", "F0B0", "F1B1"]]
    content, _ = found(capsys, "delays", "--group-size", "3", "--convention", "custom", "--delays", "4,1,0")
    assert (content["convention"], content["network"], content["dataset"]) == ("custom", "mlp", "digits")
    assert content["grid"] == Delays.custom([4, 1, 0]).cells(7)


def test_info(capsys):
    content, text = found(capsys, "info")
    assert content["strategies"] == {name: row.description for name, row in STRATEGIES.items()}
    assert content["dataset"]["input_shape"] == [1, 8, 8]
    assert "{train} + {test} {kind}".format_map(content["dataset"]) in text
    for name in (*content["networks"], *content["datasets"], content["device"], content["versions"]["torch"]):
        assert name in text


def test_advice(capsys):
    content, text = found(capsys, *["advise", "--group-size", "5", "--steps", "8", "--strategies", "ema-span"])
    assert [sentence in text for sentence in content["sentences"]] == [True] * 3
    assert [row["updates"] for row in content["rows"]] == [2, 4, 6, 8]
    for row in content["rows"]:
        shown = re.search(rf"^ +{row['updates']} +(\S+) +(\S+)$", text, re.M).groups()
        assert shown == tuple(f"{row['losses'][name]:.3g}" for name in ("stash", "ema-span"))
    (stage,) = content["stages"]
    known = {one["updates"]: one for one in stage["qualities"]["ema-span"]}
    qualities = ("recall_error", "gradient_cosine")
    cells = [f"{known[n][what]:.3g}" if n in known else "-" for what in qualities for n in (2, 4, 6, 8)]
    assert re.search(r"^ +0 +2 +ema-span +(.*)$", text, re.M)[1].split() == cells
    saved = stage["megabytes"]["stash"] - stage["megabytes"]["ema-span"]
    assert f"{stage['parameters']:,d}  " in text
    assert f"{saved:.3g}" in text
