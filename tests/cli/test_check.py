"""``layerpipe2 check``: its reference is that of the tests, it sees what differs, and no check ends the others."""

import copy
import itertools
import re
import subprocess

import pytest
import torch
from torch import nn

from layerpipe2.checks import reference
from layerpipe2.checks.trainings import DELAYS, SINGLE, STRATEGIES, batches, network, two_processes
from layerpipe2.cli import check, main
from layerpipe2.cli.check import ROUNDING, Verdict, compared
from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.strategies import NamedStrategy
from tests.reference import FURTHER, NewMethod, run_clocked
from tests.sampling import slow

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def tanh(monkeypatch):
    """For the clock-driven reference, which writes out every layer."""

    def forward(layer, w, x):
        return x.tanh(), (x.tanh(),)

    monkeypatch.setitem(FURTHER, nn.Tanh, (forward, lambda layer, w, kept, gy: (gy * (1 - kept[0] ** 2), {})))


def lines(capsys, *options, code=0):
    """Name -> verdict; the last line has the name ''."""
    if code:
        with pytest.raises(SystemExit) as ended:
            main(["check", *options])
        assert ended.value.code == code
    else:
        assert main(["check", *options]) == 0
    _, *rows, end = capsys.readouterr().out.splitlines()
    return dict(re.split(" {2,}", row, maxsplit=1) for row in rows) | {"": end}


@pytest.mark.parametrize("rule", STRATEGIES)
def test_the_reference_is_the_clock_driven_one(rule, tanh):
    def own(delay, start):
        return NewMethod(NamedStrategy("own", "", "", "stash", lambda: STRATEGIES[rule]), delay, [start])

    double, twins = torch.float64, network(torch.float64)
    trace = reference.train(network(double), DELAYS, STRATEGIES[rule], batches(double))
    how = {"strategy": own if rule == "chain" else rule, "convention": "layerpipe2", "lr_of": lambda t: 0.2}
    run_clocked(twins, batches(double), make_optimizer=reference.make_optimizer, **how)
    assert compared(trace[-1:], [reference.snapshot(twins)], 1e-12).kind != "differs"


def test_nothing_that_is_wrong_counts_as_rounding():
    traces = [reference.train(network(), DELAYS, strategy, batches()) for strategy in STRATEGIES.values()]
    traces += [
        reference.train(network(), late, STRATEGIES["stash"], batches()) for late in ((5, 4, 2, 0), (6, 4, 1, 0))
    ]
    for one, other in itertools.combinations(traces, 2):
        assert compared(one, other, 10 * max(ROUNDING.values())).kind == "differs"


def test_the_first_place_that_differs_is_named_and_no_number_equals_nan():
    one = [[torch.tensor([1.0, 2.0]), torch.tensor([4.0])] for _ in range(3)]
    other = copy.deepcopy(one)
    assert compared(one, other) == Verdict("equal")
    other[1][1][0] += 1e-6
    assert compared(one, other, 1e-5) == ("equal to rounding", " (largest relative difference 2e-07)")
    numbers = "4 instead of 4.00000095 (relative difference 2e-07)"
    assert compared(one, other) == ("differs", f": stage 1, update 2: {numbers}")
    one[0][0][1] = torch.nan
    assert compared(one, other, 1.0).detail.startswith(": stage 0, update 1: nan instead of 2 ")
    assert compared(other, one, 1.0).kind == "differs"


@slow
def test_on_a_cpu_all_is_equal_and_a_line_says_what_is_not_here(capsys):
    found = lines(capsys, "--only", "cpu")
    assert len(found) == len(ROUNDING) * len(STRATEGIES) + 4
    assert found["two processes, cpu"] == found["cpu checkpoint, resumed"] == "equal"
    assert found["cpu no delay, plain PyTorch"] == found["cpu float64 stash"] == found["cpu bfloat16 stash"] == "equal"
    assert all(text.startswith("equal") for name, text in found.items() if name)
    assert re.fullmatch(r"\d+ equal(, \d equal to rounding)?", found[""])


def test_an_engine_that_reads_other_weights_is_found(capsys, monkeypatch):
    row = DelayedWeights.row
    monkeypatch.setattr(DelayedWeights, "row", lambda self, step, *more: row(self, max(0, step - 1), *more))
    found = lines(capsys, "--only", "cpu float32", code=1)
    assert re.fullmatch(r"differs: stage \d, update \d: \S+ instead of \S+ \(.+\)", found["cpu float32 stash"])
    assert "differs" in found[""]


@NO_GPU
def test_without_a_gpu_the_reason_stands_there(capsys):
    found = lines(capsys, "--only", "cuda")
    assert len(found) == 4
    assert all(re.fullmatch(r"not here \(torch .* sees no GPU\)", text) for name, text in found.items() if name)


@NO_GPU
def test_every_check_survives_its_own_error(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    names = [name for name, _ in check._checks()]
    assert len(names) == 4 * (len(ROUNDING) * len(STRATEGIES) + 2) + 3 + 1 + 2
    assert names[-2:] == ["two processes, cuda:0 and cuda:1", "two processes, cuda:1 and cuda:2"]
    found = lines(capsys, "--only", "float64 stash", code=1)
    assert found.pop("cpu float64 stash") == "equal"
    assert found.pop("") == "1 equal, 3 failed"
    assert list(found) == [f"cuda:{i} float64 stash" for i in range(3)]
    assert all(re.match(r"failed: \w+: \w+", text) for text in found.values())


@pytest.mark.parametrize(("visible", "expected"), [(None, "1,2"), ("", "1,2"), ("GPU-a,GPU-b,7,GPU-c", "GPU-b,7")])
def test_processes_see_the_gpus_of_their_link_only(visible, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def ends(command, *, env, **options):
        assert env["CUDA_VISIBLE_DEVICES"] == expected
        return subprocess.CompletedProcess(
            command, 2, "", f"[rank 1] x\n[rank 0] ValueError: {command[-1]}\nrank 1 ended"
        )

    monkeypatch.setattr(subprocess, "run", ends)
    with pytest.raises(RuntimeError, match=r"^ValueError: cuda:0$"):
        two_processes([1, 2], 60)


@slow
@NO_GPU
def test_processes_that_fail_say_why():
    with pytest.raises(RuntimeError, match="gpu"):
        two_processes([0], 60)


def test_names_that_are_none_and_a_time_that_is_over(capsys, monkeypatch):
    assert main(["check", "--only", "tpu"]) == 2
    assert capsys.readouterr().err.startswith(
        "layerpipe2: error: --only is 'tpu', which is in no check's name; known: cpu"
    )
    monkeypatch.setattr(check, "LIMIT_S", 0.0)
    found = lines(capsys, "--only", f"cpu {str(SINGLE)[6:]}")
    assert set(found.values()) == {"not here (0 s are over; run it alone by --only)", "5 not here"}
