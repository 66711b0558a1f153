"""The command line: what it prints, and that mistakes are one line and exit code 2."""

import json
import re
import tempfile

import pytest

from layerpipe2.cli import main, make_parser
from layerpipe2.cli.console import run_command
from layerpipe2.runs.config import RunConfig

QUICK = ["train", "--width", "8", "--group-size", "3", "--epochs", "1", "--batch-size", "128", "--quiet"]


def test_every_setting_is_an_option_of_train_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    fields = RunConfig.model_json_schema()["properties"]
    assert all(f"--{name.replace('_', '-')}" in text for name in fields)
    assert "examples:" in text
    assert "layerpipe2 train --strategy ema-window" in text
    for section in {field["section"] for field in fields.values()}:
        assert f"\n{section}:\n" in text


def test_the_examples_in_the_help_are_valid(capsys):
    for command in ("train", "delays", "balance"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        lines = re.findall(r"^  layerpipe2 (.*?)(?:    .*)?$", capsys.readouterr().out, re.MULTILINE)
        assert len(lines) >= 4
        for line in lines:
            assert make_parser().parse_args(line.split()).command == command


def test_train_writes_a_record_and_prints_a_summary(tmp_path, capsys):
    out = tmp_path / "deep" / "run.json"
    assert main([*QUICK, "--strategy", "ema-window", "--no-augment", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    expected = RunConfig(width=8, group_size=3, epochs=1, batch_size=128, strategy="ema-window")
    assert record["config"] == expected.to_dict()
    text = capsys.readouterr().out
    assert "delays (updates, layerpipe2): [4, 2, 0]" in text
    assert f"test accuracy {record['test']['accuracy']:.2%} of 450 images" in text


def test_train_says_where_the_data_comes_from_and_that_a_run_diverged(capsys):
    assert main([*QUICK[:-1], "--lr", "1e30"]) == 0
    captured = capsys.readouterr()
    assert "digits: reading scikit-learn's digits" in captured.err
    assert "diverged at epoch 0: the loss isn't finite" in captured.out


def test_train_resumes(tmp_path, capsys):
    folder = ["--checkpoint-dir", str(tmp_path)]
    assert main([*QUICK, *folder]) == 0
    assert main([*QUICK, *folder, "--resume"]) == 0
    first, second = re.findall(r"test accuracy.*", capsys.readouterr().out)
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--lr", "nan"], "--lr is nan; give a finite number > 0"),
        (["train", "--lr", "fast"], "--lr is 'fast'; give a finite number > 0"),
        (["train", "--group-size", "0"], "--group-size is 0; give an integer >= 1"),
        (["train", "--group-size", "10"], "group size for 9 units is 10; give an integer from 1 to 9"),
        (["train", "--optimizer", "lion"], "--optimizer is 'lion'; give one of sgd, adamw"),
        (["train", "--network", "mpl"], "unknown network 'mpl'"),
        (["train", "--strategy", "ema-windo"], "unknown strategy 'ema-windo'"),
        (["train", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["train", "--dataset", "cifar10", "--data-root", "nowhere"], "cifar10: data folder nowhere "),
        (["train", "--convention", "custom", "--delays", "2,-1"], "--delays is (2, -1); give a list of integers >= 0"),
        (["train", "--convention", "custom", "--delays", "two"], "--delays is 'two'; give a list of integers >= 0"),
        (["delays", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["delays", "--ticks", "0"], "--ticks is 0; give an integer >= 1"),
        (["info", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["balance", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["balance", "--stages", "0"], "--stages is 0; give an integer >= 1"),
        (["balance", "--repeats", "0"], "--repeats is 0; give an integer >= 1"),
        (
            ["balance", "--width", "4", "--stages", "10"],
            "number of stages for 9 units is 10; give an integer",
        ),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--quiet"] if arguments[0] == "train" else arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"layerpipe2: error: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_refused_before_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    assert main([*QUICK, "--out", str(tmp_path / "file" / "run.json")]) == 2
    assert "can't be made" in capsys.readouterr().err
    assert main([*QUICK, "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err

    def refuse(dir):  # mocked, because nothing is read-only for root
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert main([*QUICK, "--out", str(tmp_path / "run.json")]) == 2
    assert "can't be written (Permission denied)" in capsys.readouterr().err


def test_delays_shows_stages_memory_and_grid(capsys):
    assert main(["delays", "--network", "resnet18", "--group-size", "4", "--width", "8"]) == 0
    text = capsys.readouterr().out
    assert "10 layers, 3 stages, convention layerpipe2" in text
    assert re.findall(r"^ +(\d)  +(\S+)  +[\d,]+  +(\d+)$", text, re.MULTILINE) == [
        ("0", "0-3", "4"),
        ("1", "4-7", "2"),
        ("2", "8-9", "0"),
    ]
    assert re.search(r"^latest +0\.00$", text, re.MULTILINE)
    assert "copies: of all the network's parameters, held beside the latest weights" in text
    assert re.search(r"^stage 2 +F0B0", text, re.MULTILINE)


@pytest.mark.parametrize(("width", "ticks"), [(20, 6), (80, 14), (400, 19)])
def test_delays_draws_as_many_ticks_as_fit_the_terminal(width, ticks, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["delays"]) == 0
    grid = capsys.readouterr().out.partition("\n\ntick")[2].splitlines()
    assert grid[0].split() == [str(tick) for tick in range(ticks)]
    assert max(map(len, grid)) <= max(width, len("stage 0") + 6 * len("  F0"))
    assert main(["delays", "--ticks", "25"]) == 0
    assert "  24\n" in capsys.readouterr().out


def test_delays_of_your_own(capsys):
    assert main(["delays", "--group-size", "3", "--convention", "custom", "--delays", "4,4,0", "--ticks", "6"]) == 0
    assert re.search(r"^stage 1 +W0  W0  W0  W0  W0  W1$", capsys.readouterr().out, re.MULTILINE)


def test_balance_shows_layers_stages_and_the_predicted_speed(capsys):
    assert main(["balance", "--network", "resnet-small", "--width", "2", "--stages", "3", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "resnet-small for digits: 8 layers, mini-batches of 64, sgd, strategy stash, 1 thread(s)" in text
    layers = re.findall(r"^ +(\d)  +(\d)  +[\d,]+  +[\d.]+(?:  +-?[\d.]+){4}$", text, re.MULTILINE)
    assert [layer for layer, _ in layers] == list("01234567")
    assert sorted({stage for _, stage in layers}) == ["0", "1", "2"]
    assert re.search(r"3 processes of one stage each: predicted [\d.]+ ms, \d\.\d\dx", text)
    assert re.search(r"by group size 3 \(3 stages\): predicted \d\.\d\dx", text)


def test_info_names_data_device_and_versions(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for part in ("resnet18", "ema-lsq", "1347 + 450 images, 1 x 8 x 8, 10 classes, verified", "device: ", "torch 2"):
        assert part in text


def test_interrupts_and_closed_pipes_end_quietly(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    def bug(arguments):
        raise ZeroDivisionError

    assert run_command("prog", interrupted, None) == 130
    assert capsys.readouterr().err == "prog: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_command("prog", bug, None)
