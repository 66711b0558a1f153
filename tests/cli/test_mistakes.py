"""Every mistake on the command line is one line with its remedy, exit code 2, and leaves nothing behind."""

import os

import pytest

from layerpipe2.cli import main
from layerpipe2.cli.console import run_command

LAUNCH = ["launch", "--processes", "2"]
CUSTOM = ["--group-size", "5", "--convention", "custom", "--delays"]
SPIKING = ["train", "--network", "spiking-mlp"]
WRONG_KIND = ["--network", "mlp", "--dataset", "python-docs"]
CIFAR = ["info", "--dataset", "cifar10", "--data-root"]
NODES = ["launch", "--processes", "1", "--master", "10.0.0.1:29500", "--nodes", "2"]
SECRET = "several machines need a common secret of at least 16 characters; make one by `(umask 77; openssl rand"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--lr", "1e39"], "--lr is 1e+39; give a finite number > 0 and <= 1e+15"),
        (["train", "--weight-decay", "1e39"], "--weight-decay is 1e+39; give a finite number >= 0 and <= 1e+15"),
        (["train", "--mlflow", "."], "database . is a folder; give the name of a file"),
        (["train", "--lr", "fast"], "--lr is 'fast'; give a finite number > 0"),
        (["train", "--group-size", "0"], "--group-size is 0; give an integer >= 1"),
        (["train", "--group-size", "10"], "group size for 9 units is 10; give an integer from 1 to 9"),
        (["train", "--optimizer", "lion"], "--optimizer is 'lion'; give one of sgd, adamw"),
        (["train", "--convention", "custom", "--delays", "2,-1"], "--delays is (2, -1); give a list of integers >= 0"),
        (["train", "--convention", "custom", "--delays", "two"], "--delays is 'two'; give a list of integers >= 0"),
        (["delays", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["info", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["balance", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["balance", "--recompute-activations", "--strategy", "ema-span"], "recompute_activations runs a forward pass"),
        (["balance", "--latency", "1"], "--latency is that of a link between machines; give its --gigabits, too"),
        (["balance", "--gigabits", "0"], "argument --gigabits: '0' is out of range; give a number from 1e-06"),
        (["balance", "--strategy", "a/b"], "unknown strategy 'a/b'"),
        (["balance", "--module", "x"], "--module is 'x'; give a module and its function, as in package.module:func"),
        (["balance", "--module", "x.y:z"], "--module is 'x.y:z', and there is no module x, here or installed"),
        (["advise", "--module", "json:lods"], "unknown function of json 'lods'; did you mean 'loads'?"),
        (["advise", "--module", "platform:node"], "platform:node returns "),
        (["advise", "--module", "json:load", "--width", "1"], "--width is for the study's networks, and --module has"),
        (["tune", "--module", "json:load", "--space", "width=int:1:2"], "space has width, which is for the study's"),
        (["tune", "--module", "json:load"], "nothing to tune; give settings and their ranges"),
        (["balance", "--module", "json:load"], "json:load takes the argument fp; give it a default"),
        (["advise", "--stages", "2"], "--stages is for a network of --module; those of the study have --group-size"),
        (["balance", "--repeats", "0"], "argument --repeats: '0' is out of range; give an integer from 1 to"),
        (["balance", "--width", "4", "--stages", "10"], "number of stages for 9 units is 10; give an integer"),
        (["train", "--nesterov", "--momentum", "0"], "nesterov is a form of momentum, and momentum is 0; give a"),
        (["train", "--seed", "-1"], "--seed is -1; give an integer >= 0 and <= 4294967295"),
        (["train", *WRONG_KIND], "network mlp takes images, not"),
        ([*SPIKING, "--time-steps", "0"], "--time-steps is 0; give an integer >= 1 and <= 1024, or none"),
        ([*SPIKING, "--membrane-decay", "1"], "--membrane-decay is 1.0; give a finite number >= 0 and < 1, or none"),
        ([*SPIKING, "--synapse-decay", "-0.1"], "--synapse-decay is -0.1; give a finite number >= 0 and < 1, or none"),
        ([*SPIKING, "--threshold", "0"], "--threshold is 0.0; give a finite number > 0, or none"),
        ([*SPIKING, "--reset", "zeor"], "unknown reset 'zeor'; did you mean 'zero'?"),
        ([*SPIKING, "--surrogate", "arctn"], "unknown surrogate 'arctn'; did you mean 'arctan'?"),
        ([*SPIKING, "--coding", "rat"], "unknown coding 'rat'; did you mean 'rate'?"),
        ([*SPIKING, "--readout", "rates"], "unknown readout 'rates'; did you mean 'rate'?"),
        ([*SPIKING, "--coding", "columns", "--time-steps", "8"], "time_steps is given, but with coding 'columns' the"),
        (["train", "--time-steps", "4"], "network mlp isn't spiking, it has no time_steps; leave it out, or take"),
        (["train", "--grup-size", "2"], "unknown argument '--grup-size'; did you mean '--group-size'?"),
        (["train", "digits"], "unknown argument 'digits'; see `layerpipe2 train --help`"),
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["frobnicate"], "unknown command 'frobnicate'; known: train, delays, balance, tune"),
        ([], "the following arguments are required: COMMAND"),
        (["delays", "--network", "gpt"], "network gpt takes text, not"),
        (["balance", *WRONG_KIND], "network mlp takes images, not"),
        ([*LAUNCH, "--timeout", "-1", "--", __file__], "argument --timeout: '-1' is out of range; give a number"),
        (LAUNCH, "no command; give a Python script"),
        ([*LAUNCH, "--", "missing.py"], "no file 'missing.py'; give a Python script"),
        ([*LAUNCH, "--nodes", "2", "--", __file__], "several machines need --master HOST:PORT"),
        ([*LAUNCH, "--nodes", "2", "--node-rank", "2", "--", __file__], "--node-rank is 2, but --nodes 2"),
        ([*LAUNCH, "--master", "host", "--", __file__], "--master is 'host'; give HOST:PORT"),
        ([*LAUNCH, "--master", "host:99999", "--", __file__], "--master is 'host:99999'; give HOST:PORT"),
        (["stability", "--momentum", "1"], "--momentum is 1.0; give a finite number >= 0 and < 1"),
        (["stability", "--group-size", "10"], "group size for 9 units is 10"),
        (["derive", "--layers", "0"], "argument --layers: '0' is out of range; give an integer from 1 to 128"),
        (["derive", "--layers", "x"], "argument --layers: 'x' is out of range; give an integer from 1 to 128"),
        (["derive", "--layers", "3", "--network", "mlp"], "--layers and --network are both given"),
        (["derive", "--groups", "2,x"], "argument --groups: '2,x' is no list of integers; give one, as in 2,2,1; see"),
        (["derive", "--step", "9"], "--step is '9'; this derivation has the steps 0, 1, 2, 3, 4, 4.2"),
        (["derive", "--export", "png"], "unknown graph format 'png'"),
        (["derive", "--out", "file/graph.txt"], "Not a directory 'file/graph.txt'; give another name"),
        (["derive", "--out", "."], "Is a directory '.'; give another name or folder"),
        (["train", "--out", "."], ". is a folder; give the name of a file"),
        (["schedule", "dapple"], "unknown schedule 'dapple'; known: gpipe"),
        (["schedule", "--forward", "nan"], "argument --forward: 'nan' is out of range; give a number from 1e-06"),
        (["schedule", "interleaved", "--batches", "6"], "schedule 'interleaved': 6 batches on 4 processors"),
        (["schedule", "gpipe", "--until", "0"], "argument --until: '0' is out of range; give a number from"),
        (["stability", *WRONG_KIND], "network mlp takes images, not"),
        (["delays", "--width", "9" * 20], f"--width is {'9' * 20}; give an integer >= 1 and <= 65536"),
        (["delays", "--width", "9" * 5000], f"--width is '{'9' * 116}...; give an integer >= 1 and <= 65536"),
        (["delays", "--width", "\u0663"], "--width is '\u0663'; give an integer"),
        (["delays", "--width", "1_0"], "--width is '1_0'; give an integer"),
        (["delays", "--ticks", "4294967296"], "argument --ticks: '4294967296' is out of range; give an integer"),
        (["delays", "--network", "a\nb" * 999], "unknown network 'a\\nba\\nb"),
        (["train", "--width", "65536", "--network", "vgg16"], "network vgg16 of width 65536, batch_size 64 and delays"),
        (["train", "--batch-size", "4294967296"], "--batch-size is 4294967296; give an integer >= 1 and <= 65536"),
        (["train", "--lr", "1" + "0" * 400], "--lr is inf; give a finite number > 0"),
        (["train", "--out", "a" * 300 + "/b.json"], "output folder aaa"),
        (["train", "--stash-epochs", "1e300"], "--stash-epochs is 1e+300; give a finite number >= 0 and <= 1000000000"),
        (["train", "--threads", "100000"], "--threads is 100000; give an integer >= 1 and <= 1024"),
        (["train", *CUSTOM, "4294967296,0"], "--delays is (4294967296, 0); give a list of integers >= 0 and <= 10000"),
        (["train", *CUSTOM, "10000,0", "--width", "65536"], "network mlp of width 65536, batch_size 64 and delays of"),
        (["balance", "--width", "65536", "--network", "vgg16"], "network vgg16 of width 65536, batch_size 64 and"),
        (["launch", "--master", "host:\u00b2", "--", __file__], "--master is 'host:\u00b2'; give HOST:PORT"),
        (["launch", "--master", "a" * 64 + ":1", "--", __file__], "--master is 'aaa"),
        (["stability", *CUSTOM, "65,0"], "largest delay is 65; give an integer from 0 to 64"),
        (["schedule", "--processors", "1000"], "--processors 1000 with --batches 8 take too long; give smaller ones"),
        (["schedule", "--batches", "4294967296"], "argument --batches: '4294967296' is out of range; give"),
        (["schedule", "gpipe", "--until", "1e9"], "--until is 1e+09, more than 10,000 columns; give an earlier end"),
        (["schedule", "gpipe", "--forward", "1e-300"], "argument --forward: '1e-300' is out of range; give a"),
        ([*CIFAR, "~nobody-here"], "cifar10: data folder ~nobody-here (the root argument)"),
        ([*CIFAR, "\udcff"], "argument '\\udcff' isn't UTF-8; give another name"),
        ([*NODES, "--", __file__], SECRET),
        ([*NODES, "--secret-file", "file", "--", __file__], SECRET),  # a short one
        ([*NODES, "--secret-file", "none", "--", __file__], "--secret-file none can't be read ("),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYERPIPE2_SECRET", raising=False)
    (tmp_path / "file").write_text("0123456789")
    assert main([*arguments, "--quiet"] if arguments[:1] == ["train"] else arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"layerpipe2: error: {message}")
    assert error.count("\n") == 1
    assert len(error) < 1300
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_processes_than_memory_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 10**6, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert main(["launch", "--processes", "21", "--", __file__]) == 2
    assert "--processes is 21, and this machine has memory for 20; give fewer" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["train", "--out", str(tmp_path / "file" / "run.json")]) == 2
    assert "can't be made" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")  # like /dev/null, which root would replace by a file
    assert main(["train", "--out", str(tmp_path / "pipe")]) == 2
    assert "pipe is no regular file; give the name of a file" in capsys.readouterr().err


def test_interrupts_and_closed_pipes_end_quietly(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    def bug(arguments):
        raise ZeroDivisionError

    assert run_command("prog", interrupted, None) == 130
    assert capsys.readouterr().err == "prog: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_command("prog", bug, None)
