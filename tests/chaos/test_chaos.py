"""The runner of attacks notices every kind of failure, and a sample of random bad inputs ends as it must."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from layerpipe2.errors import UserError
from tests.chaos.attack import ALLOWED, FORBIDDEN, Act, Attack, Failed, Scene, call
from tests.chaos.attacks import ATTACKS
from tests.chaos.processes import resident_gb
from tests.chaos.results import PAGE, Kept, with_counts
from tests.chaos.runner import run


def raises(error):
    def act(scene):
        raise error

    return act


def spins(scene):
    while True:
        pass


def explodes(scene):
    scene.crater.mkdir()
    raise UserError("it was refused, but too late")


def grows(scene):
    held = bytearray(range(256)) * 2**22  # 1 GB, touched
    return held[:0]


def leaves_a_process(scene):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


def works(scene):
    scene.out.mkdir()
    (scene.out / "result").write_text("x")


PLANTED = {
    "dies": ("traceback", lambda scene: os.kill(os.getpid(), signal.SIGKILL)),
    "refuses-at-length": ("traceback", raises(UserError("no\nand no"))),
    "sleeps": ("hang", lambda scene: time.sleep(60)),
    "spins": ("hang", spins),
    "explodes": ("executed", explodes),
    "differs": ("different", raises(Failed("different", "1 instead of 2"))),
    "writes": ("outside", lambda scene: (scene.folder.parent / "stray").write_text("x")),
    "changes": ("outside", lambda scene: (scene.folder / "input").write_text("changed")),
    "grows": ("memory", grows),
    "leaves-a-process": ("left", leaves_a_process),
    "leaves-a-file": ("left", lambda scene: (scene.folder.parents[2] / "tmp" / "left").write_text("x")),
    "works": ("equal", works),
    "refuses": ("refused", raises(UserError("no"))),
}


def attack(name) -> Attack:
    kind, do = PLANTED[name]

    def case(scene: Scene) -> Act:
        (scene.folder / "input").write_text("input")
        return lambda: (do(scene) and "") or "equal"

    memory_gb = resident_gb(os.getpid()) + 0.3
    return Attack(name, case, 1, 1, limit_s=0.5 if kind == "hang" else 60, memory_gb=memory_gb)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_failure_is_noticed(name, capsys):
    kind = PLANTED[name][0]
    found = run([attack(name)], {name: 1}, seed=7)[name]
    assert dict(found.counts) == {kind: 1}
    failed = kind in FORBIDDEN
    assert len(found.failures) == failed
    again = f"python -m tests.chaos --only {name} --seed 7 --cases 1"
    assert (again in capsys.readouterr().out) == failed
    assert (again in with_counts(PAGE.read_text(), [attack(name)], Kept(7, {name: found}))) == failed


def test_every_kind_is_planted_and_the_page_explains_it_and_every_attack():
    assert {kind for kind, _ in PLANTED.values()} == {*ALLOWED, *FORBIDDEN}
    text = PAGE.read_text()
    assert [
        name for name in (*ALLOWED, *FORBIDDEN, *(one.name for one in ATTACKS)) if f"- **{name}**" not in text
    ] == []


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [(0, "a warning\nand another\n", "equal"), (2, "no\n", "refused"), (2, "no\nno\n", None), (1, "", None)],
)
def test_a_refusal_is_exit_code_2_and_one_line(code, said, kind):
    def main(arguments):
        sys.stderr.write(said)
        sys.exit(code)

    if kind:
        assert call(main, []) == kind
    else:
        with pytest.raises(Failed, match="traceback: exit code"):
            call(main, [])


def test_no_case_begins_after_the_time_is_over():
    assert run([attack("works")], {"works": 5}, seed=0, minutes=0)["works"].cases == 0


def test_a_long_attack_goes_on_behind_what_is_kept(tmp_path):
    path, one = tmp_path / "chaos.json", attack("works")
    for number in (2, 5):
        kept = Kept.read(path, 3)
        run([one], {"works": number}, 3, results=kept.results, keep=lambda kept=kept: kept.write(path))
        kept = Kept.read(path, 3)
        assert kept.results["works"].counts == {"equal": number}
    with pytest.raises(UserError, match="began with seed 3, not 4"):
        Kept.read(path, 4)


def test_random_bad_inputs_are_refused_in_one_line():
    """A fifth of what ``make chaos`` tries."""
    here = resident_gb(os.getpid())
    fuzzed = [replace(one, memory_gb=here + one.memory_gb) for one in ATTACKS if one.name[:5] == "fuzz-" and one.short]
    results = run(fuzzed, {one.name: one.short // 5 for one in fuzzed}, seed=0)
    assert [failure for result in results.values() for failure in result.failures] == []
    assert all(result.counts["refused"] for result in results.values())
    assert sum((result.counts for result in results.values()), Counter())["equal"] > 20
