"""Ranks that don't fit together, never come or fail: all others end with one line that says which and why."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest

from layerpipe2.errors import UserError
from layerpipe2.pipeline.health.agreement import check_agreement, code_and_versions
from layerpipe2.pipeline.health.diagnosis import EVERYONE, Peers, Post
from layerpipe2.pipeline.health.watchdog import Watchdog
from layerpipe2.pipeline.store import SignedPosts, first_line, host_store, join_store
from layerpipe2.versions import code_hash
from tests.pipeline import processes
from tests.pipeline.fits import Case, in_process
from tests.pipeline.toy_pipeline import TICK_S, train
from tests.pipeline.toy_pipeline import TIMEOUT_S as TOY_TIMEOUT_S
from tests.sampling import sampled, slow


def outcomes(settings, sizes=None, timeout_s=20.0, times=1):
    """Each rank's error, or None. ``settings[rank]`` None: the rank doesn't come."""
    sizes = sizes or [len(settings)] * len(settings)
    server = host_store("127.0.0.1", 0, 20.0)

    def agree(rank):
        store = join_store("127.0.0.1", server.port, 20.0)
        try:
            for _ in range(times):
                check_agreement(store, rank, sizes[rank], settings[rank], timeout_s)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(settings)) as pool:
        return list(pool.map(agree, [rank for rank, known in enumerate(settings) if known is not None]))


def test_equal_ranks_go_on_every_time():
    assert outcomes([code_and_versions()] * 3, times=3) == [None] * 3


DIFFERS = "rank {} differs from rank 0 in {}; start all with the same settings and code"
ABSENT = "{} never came: no sign of it for 0.5 s; start it, or see its output"


@pytest.mark.parametrize(
    ("settings", "sizes", "text"),
    [
        ([{"lr": "0.1"}, {"lr": "0.1"}, {"lr": "0.2"}], None, DIFFERS.format(2, "lr: 0.2 against 0.1")),
        ([{"a": "1"}, {}], None, DIFFERS.format(1, "a: missing against 1")),
        ([{}, {"a": "1"}], None, DIFFERS.format(1, "a: 1 against missing")),
        ([{}, {}], [2, 3], DIFFERS.format(1, "number of ranks: 3 against 2")),
        ([{}, None, {}], None, ABSENT.format("rank 1")),
        ([{}, None, None], None, ABSENT.format("rank 1, 2")),
    ],
)
def test_all_ranks_name_the_rank_and_what_is_wrong(settings, sizes, text):
    said = outcomes(settings, sizes, timeout_s=0.5 if None in settings else 20.0)
    assert said == [text] * sum(known is not None for known in settings)


def test_other_code_has_another_hash(tmp_path):
    hashes = []
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2")):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        (folder / name).write_text(text)
        hashes.append(code_hash(package=folder))
    assert len(set(hashes)) == 3
    (tmp_path / "0" / "notes.txt").write_text("no code")
    assert code_hash.__wrapped__(package=tmp_path / "0") == hashes[0]
    assert code_and_versions()["code of layerpipe2"] == code_hash()


def test_a_script_that_ends_itself_is_told_as_that():
    assert first_line(SystemExit(7)) == "called sys.exit(7)"


TIMEOUT_S, INTERVAL_S = 3.0, 0.5


def watch(histories, looks, timeout_s=TIMEOUT_S, **options):
    """The reason after ``looks`` looks at ranks whose post at look i holds ``histories[rank](i)``."""
    peers = Peers(len(histories), timeout_s, INTERVAL_S)
    for i in range(looks):
        there = [rank for rank, history in enumerate(histories) if history is not None]
        peers.look({rank: Post("abcd"[rank], **histories[rank](i)) for rank in there}, INTERVAL_S)
    return peers.diagnosis(**options)


def working(i):
    return {"beat": i, "moves": i, "step": i}


def moving_within_a_step(i):
    return {"beat": i, "moves": i, "step": 7}


def finished(i):
    return {"beat": 1, "step": 9, "done": True}


def waits_for(peer):
    return lambda i: {"beat": i, "step": 7, "waiting": peer}


def hangs(step=7, moves=0):
    return lambda i: {"beat": i, "step": step, "moves": min(i, moves)}


def dead(since=2):
    return lambda i: {"beat": min(i, since), "moves": min(i, since)}


AT_BARRIER = waits_for(EVERYONE)


RING = "rank 1 (b) waits for rank 2 (c) waits for rank 1 (b)"
LOST = "no sign of life for 3 s: killed, stopped or cut off"


@pytest.mark.parametrize(
    ("histories", "looks", "reason"),
    [
        ([working, working, working], 100, None),
        ([waits_for(1), working], 100, None),
        ([AT_BARRIER, AT_BARRIER, working], 100, None),
        ([waits_for(1), AT_BARRIER, working], 100, None),
        ([moving_within_a_step], 100, None),
        ([working, finished], 100, None),  # it may be silent
        ([waits_for(1), waits_for(2), waits_for(3), hangs(12)], 20, "rank 3 (d) hangs: no progress for 3 s at step 12"),
        ([waits_for(1), waits_for(2), waits_for(1)], 20, f"deadlock: {RING} for 3 s"),
        ([AT_BARRIER, AT_BARRIER, hangs()], 20, "rank 2 (c) hangs: no progress for 3 s at step 7"),
        ([hangs(7), hangs(6, moves=1)], 8, "rank 1 (b) hangs: no progress for 3 s at step 6"),  # the one behind
        ([waits_for(1), finished], 20, "rank 0 (a) waits for rank 1 (b), which has already finished"),
        ([working, dead()], 8, None),
        ([working, dead()], 20, f"rank 1 (b) gives {LOST}"),
        ([waits_for(1), dead()], 20, f"rank 1 (b) gives {LOST}"),
        ([working, dead(2), dead(3)], 20, f"rank 1 (b) and rank 2 (c) give {LOST}"),
        ([working, None], 4, None),
        ([working, None], 8, "rank 1 never came: no sign of it for 3 s"),
    ],
)
def test_the_rank_that_holds_up_the_others_is_named(histories, looks, reason):
    assert watch(histories, looks) == reason


@pytest.mark.parametrize(
    ("timeout_s", "looks_apart", "named"),
    [
        (8.0, 2, "rank 1 (b) and rank 2 (c) give"),
        (8.0, 3, "rank 1 (b) gives"),  # the other is only late
        (3.0, 2, "rank 1 (b) gives"),  # too much of so short a time
    ],
)
def test_those_cut_off_at_one_time_are_named_together(timeout_s, looks_apart, named):
    reason = watch([working, dead(2), dead(2 + looks_apart)], 40, timeout_s)
    assert reason == f"{named} no sign of life for {timeout_s:g} s: killed, stopped or cut off"


def test_a_broken_connection_makes_a_few_missing_beats_enough():
    reason = watch([working, dead()], 8, impatient=True)
    assert reason == f"rank 1 (b) gives {LOST.replace('3 s', '2 s')}"


def test_a_rank_whose_post_was_deleted_gives_no_sign():
    peers = Peers(2, TIMEOUT_S, INTERVAL_S)
    for i in range(10):
        peers.look({0: Post("a", beat=i, moves=i)} | ({} if i else {1: Post("b")}), INTERVAL_S)
    assert peers.diagnosis() == f"rank 1 (b) gives {LOST}"


def test_who_was_held_up_itself_doesnt_take_the_others_for_dead():
    peers = Peers(2, TIMEOUT_S, INTERVAL_S)
    posts = {0: Post("a", beat=1), 1: Post("b", beat=1)}
    peers.look(posts, INTERVAL_S)
    for _ in range(2):  # each counts for two intervals
        peers.look(posts, 1000.0)
        assert peers.diagnosis() is None
    peers.look(posts, 1000.0)
    assert peers.diagnosis() == f"rank 0 (a) and rank 1 (b) give {LOST}"


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


def test_two_trainings_that_outlast_the_timeout_end_in_order_and_say_nothing(ends):
    """Each rank's thread that looks after the store takes one that answers for no store that is cut off."""
    assert ends("", int(1.3 * TOY_TIMEOUT_S / TICK_S), times=2) == [(0, [])] * 3


@pytest.mark.parametrize(("fault", "code", "cause"), sampled(INTERRUPTED, INTERRUPTED[2:3]))
def test_the_last_checkpoint_continues_bit_for_bit(fault, code, cause, tmp_path):
    case, failed = partial(Case, "ema-span"), int(fault[-1])
    timeout_s = 3 if fault[:4] in ("kill", "hang") else 60  # others tell it themselves
    found = processes.ends(in_process, 3, tmp_path, case(folder=tmp_path, fault=fault), timeout_s=timeout_s)
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
