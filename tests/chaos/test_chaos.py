"""The runner of attacks notices every kind of failure, and the page says what is tried."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from layerpipe2.errors import UserError
from tests.chaos.attack import ALLOWED, FORBIDDEN, Act, Attack, Failed, Scene, call
from tests.chaos.attacks import ATTACKS
from tests.chaos.kept import Kept
from tests.chaos.page import PAGE, page
from tests.chaos.processes import resident_gb
from tests.chaos.runner import run


def refuses(scene):
    raise UserError("no")


def refuses_at_length(scene):
    raise UserError("no\nand no")


def dies(scene):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(scene):
    time.sleep(60)


def spins(scene):
    while True:
        pass


def explodes(scene):
    scene.crater.mkdir()
    raise UserError("it was refused, but too late")


def differs(scene):
    raise Failed("different", "1 instead of 2")


def writes(scene):
    (scene.folder.parent / "stray").write_text("x")


def changes(scene):
    (scene.folder / "input").write_text("changed")


def grows(scene):
    held = bytearray(range(256)) * 2**22  # 1 GB, touched
    return held[:0]


def leaves_a_process(scene):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)


def leaves_a_file(scene):
    (scene.folder.parents[2] / "tmp" / "left").write_text("x")


def works(scene):
    scene.out.mkdir()
    (scene.out / "result").write_text("x")


PLANTED = {
    **dict.fromkeys((dies, refuses_at_length), "traceback"),
    **dict.fromkeys((sleeps, spins), "hang"),
    explodes: "executed",
    differs: "different",
    **dict.fromkeys((writes, changes), "outside"),
    grows: "memory",
    **dict.fromkeys((leaves_a_process, leaves_a_file), "left"),
    works: "equal",
    refuses: "refused",
}


def attack(do) -> Attack:
    def case(scene: Scene) -> Act:
        (scene.folder / "input").write_text("input")
        return lambda: (do(scene) and "") or "equal"

    return Attack(
        do.__name__,
        "does it",
        "must be noticed",
        case,
        1,
        1,
        limit_s=0.5 if do in (sleeps, spins) else 60,
        memory_gb=1 if do is grows else 16,
    )


@pytest.mark.parametrize("do", PLANTED, ids=lambda do: do.__name__)
def test_a_planted_failure_is_noticed(do, capsys):
    planted = replace(attack(do), memory_gb=resident_gb(os.getpid()) + 0.3)
    found = run([planted], {do.__name__: 1}, seed=7)[do.__name__]
    assert dict(found.counts) == {PLANTED[do]: 1}
    failed = PLANTED[do] in FORBIDDEN
    assert len(found.failures) == failed
    again = f"python -m tests.chaos --only {do.__name__} --seed 7 --cases 1"
    assert (again in capsys.readouterr().out) == failed
    assert (again in page([planted], Kept(7, {do.__name__: found}))) == failed


def test_every_kind_is_planted():
    assert set(PLANTED.values()) == {*ALLOWED, *FORBIDDEN}


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
    assert run([attack(works)], {"works": 5}, seed=0, minutes=0)["works"].cases == 0


def test_a_long_attack_goes_on_behind_what_is_kept(tmp_path):
    path, one = tmp_path / "chaos.json", attack(works)
    for number in (2, 5):
        kept = Kept.read(path, 3)
        run([one], {"works": number}, 3, results=kept.results, keep=lambda kept=kept: kept.write(path))
        kept = Kept.read(path, 3)
        assert kept.results["works"].counts == {"equal": number}
    with pytest.raises(UserError, match="began with seed 3, not 4"):
        Kept.read(path, 4)


def test_the_page_names_every_attack_and_its_rule():
    text = PAGE.read_text()
    assert [one.name for one in ATTACKS if f"- **{one.name}**: {one.what}. *Rule:* {one.rule}." not in text] == []
