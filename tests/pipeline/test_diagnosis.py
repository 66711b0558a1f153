"""Which rank has failed, as a function of what the ranks post."""

import pytest

from layerpipe2.pipeline.health.diagnosis import EVERYONE, Peers, Post

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
