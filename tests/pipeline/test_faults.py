"""A rank fails, without a launcher: all others end with one line that says which and why."""

import json
from functools import partial
from threading import Event
from types import SimpleNamespace

import pytest

from layerpipe2.pipeline.health.diagnosis import Post
from layerpipe2.pipeline.health.watchdog import Watchdog
from layerpipe2.pipeline.store import SignedPosts, host_store
from tests.pipeline import processes
from tests.pipeline.fits import Case, in_process
from tests.pipeline.toy_pipeline import train
from tests.sampling import sampled, slow

STEPS = 100_000
FAULTS = [
    ("kill@1", -9, "rank 1 (stage 1) gives no sign of life"),
    ("kill@2", -9, "rank 2 (stage 2) gives no sign of life"),
    ("kill@0", -9, "rank 0"),  # rank 0 serves the store here
    ("hang@1", 2, "rank 1 (stage 1) hangs: no progress for 2 s at step 24"),
    ("hang@2", 2, "rank 2 (stage 2) hangs: no progress for 2 s at step 24"),
    ("hang@0", 2, "rank 0 (stage 0) hangs: no progress for 2 s at step 24"),
    ("nan@1", 2, "rank 1 (stage 1): the loss is nan at step 25"),
    ("nan@0", 2, "rank 0 (stage 0): the loss is nan at step 25"),
    ("bug@2", 1, "rank 2 (stage 2): ended before its training did"),
]
INTERRUPTED = [
    ("kill@1", -9, "rank 1 ("),
    ("hang@0", 2, "rank 0 ("),
    ("nan@1", 2, "stage 1 diverged at mini-batch"),
    ("bug@2", 1, "a bug; all ranks end"),
]


@pytest.fixture
def ends(tmp_path):
    """How the three ranks of the toy ended, with the lines that each wrote."""

    def start(*args, **options):
        found = processes.ends(train, 3, tmp_path, *args, timeout=60.0, **options)  # under load; theirs are 2 s
        return [(code, [line for line in said.splitlines() if line.strip()]) for code, said in found]

    return start


@pytest.mark.parametrize(
    ("fault", "failed_ends_with", "cause"),
    sampled(FAULTS, [FAULTS[i] for i in (0, 5, 8)]),
)
def test_all_ranks_end_and_name_the_rank(ends, fault, failed_ends_with, cause):
    found, failed = ends(fault, STEPS), int(fault[-1])
    assert found[failed][0] == failed_ends_with, found
    for code, lines in found[:failed] + found[failed + 1 :]:
        assert (code, len(lines)) == (2, 1), found
        assert lines[0].startswith(f"layerpipe2: {cause}"), found
        assert lines[0].endswith("; all ranks end"), found


@pytest.mark.parametrize("failed", sampled([0, 1], [1]))
def test_a_stopped_rank_ends_the_others_and_itself_once_it_goes_on(ends, failed):
    found = ends(f"stop@{failed}", STEPS, resume=failed)
    assert [code for code, _ in found] == [2, 2, 2], found
    for _, lines in found[:failed] + found[failed + 1 :]:
        assert len(lines) == 1, found
        assert f"rank {failed}" in lines[0], found
        assert "no sign" in lines[0], found


@pytest.mark.parametrize(
    ("absent", "cause"),
    [(1, "rank 1 never came"), pytest.param(0, "rank 0, or node 0's launcher, never came", marks=slow)],
)
def test_a_rank_that_never_comes_is_named(ends, absent, cause):
    for code, lines in ends("", STEPS, absent=absent, patience_s=2.0):
        assert (code, len(lines)) == (2, 1), lines
        assert cause in lines[0], lines


def test_two_trainings_in_a_row_end_in_order_and_say_nothing(ends):
    assert ends("", 30, times=2) == [(0, [])] * 3


@pytest.mark.parametrize(("fault", "code", "cause"), sampled(INTERRUPTED, INTERRUPTED[2:3]))
def test_the_last_checkpoint_continues_bit_for_bit(fault, code, cause, tmp_path):
    case, failed = partial(Case, "ema-span"), int(fault[-1])
    found = processes.ends(in_process, 3, tmp_path, case(folder=tmp_path, fault=fault), timeout_s=3)
    assert [end for end, _ in found] == [code if rank == failed else 2 for rank in range(3)], found
    for rank, (_, said) in enumerate(found):
        if rank != failed:
            assert cause in said.splitlines()[-1], found
            assert "Traceback" not in said
    assert [path.name for path in tmp_path.glob("epoch*")] == ["epoch=0.ckpt"]
    resumed = processes.run(in_process, 2, case(resume=tmp_path / "epoch=0.ckpt"))
    whole = processes.run(in_process, 2, case())
    assert resumed[0][0][-1] == whole[0][0][-1]


def test_after_a_broken_connection_a_few_missing_beats_are_enough(monkeypatch):
    said = []

    def ends(self, reason, notice=None):
        said.append(reason)
        self._over.set()
        Event().wait()  # the process would be over

    monkeypatch.setattr(Watchdog, "_end", ends)
    store = host_store("127.0.0.1", 0, 20.0)
    post = Post("stage 1", 1, 1, 1, None, done=False)  # and never again
    SignedPosts(store, "layerpipe2/ranks").within("watch", 1).post("1", json.dumps(post))
    watchdog = Watchdog("127.0.0.1", store.port, 0, 2, timeout_s=60.0, label="stage 0", interval_s=0.05)
    watchdog.explain(RuntimeError("connection closed"))
    assert said == ["rank 1 (stage 1) gives no sign of life for 0.2 s: killed, stopped or cut off"]


def test_a_store_that_answers_is_never_taken_for_cut_off():
    """The thread that watches the one which talks to the store: as long as that one's beats go on, it says nothing."""
    said = []

    def wait(seconds):
        watching._beat += 1
        return watching._beat > 5

    times = {"_interval_s": 0.1, "_timeout_s": 0.5}
    over, where = SimpleNamespace(wait=wait), {"_host_of_store": lambda: "the store"}
    watching = SimpleNamespace(_beat=0, _agent=None, _over=over, _end=said.append, **times, **where)
    Watchdog._check_on_store(watching)
    assert said == []
