"""Which rank has failed, as a function of what the ranks post."""

import pytest

from layerpipe2.distributed.health.diagnosis import EVERYONE, Peers, Post

TIMEOUT_S, INTERVAL_S = 3.0, 0.5


def watch(world_size, histories, looks, elapsed_s=INTERVAL_S, **options):
    """The reason after ``looks`` looks at ranks whose post at look i is ``histories[rank](i)``."""
    peers = Peers(world_size, TIMEOUT_S, INTERVAL_S)
    for i in range(looks):
        peers.look({rank: history(i) for rank, history in enumerate(histories) if history is not None}, elapsed_s)
    return peers.diagnosis(**options)


def working(label):
    return lambda i: Post(label, beat=i, moves=i, step=i)


def waits_for(peer, label, step=7):
    return lambda i: Post(label, beat=i, step=step, waiting=peer)


def hangs(label, step=7):
    return lambda i: Post(label, beat=i, step=step)


def dead(label, since=2):
    return lambda i: Post(label, beat=min(i, since), moves=min(i, since))


def test_no_rank_is_named_while_all_work():
    assert watch(3, [working("a"), working("b"), working("c")], 100) is None


def test_waiting_for_a_slow_rank_is_no_fault():
    assert watch(2, [waits_for(1, "a"), working("b")], 100) is None


def test_the_last_of_a_chain_of_waiting_ranks_is_named():
    reason = watch(4, [waits_for(1, "a"), waits_for(2, "b"), waits_for(3, "c"), hangs("stage 3, host h", 12)], 20)
    assert reason == "rank 3 (stage 3, host h) hangs: no progress for 3 s at step 12"


def test_ranks_that_wait_for_each_other_are_a_deadlock():
    reason = watch(3, [waits_for(1, "a"), waits_for(2, "b"), waits_for(1, "c")], 20)
    assert reason == "deadlock: rank 1 (b) waits for rank 2 (c) waits for rank 1 (b) for 3 s"


def test_whoever_isnt_at_the_barrier_is_named():
    at_barrier = [waits_for(EVERYONE, "a"), waits_for(EVERYONE, "b")]
    assert watch(3, [*at_barrier, working("c")], 100) is None
    assert watch(3, [*at_barrier, hangs("c", 7)], 20) == "rank 2 (c) hangs: no progress for 3 s at step 7"
    assert watch(3, [waits_for(1, "a"), waits_for(EVERYONE, "b"), working("c")], 100) is None


def test_of_two_that_seem_to_hang_the_one_behind_is_named():
    later = lambda i: Post("b", beat=i, moves=int(i > 0), step=6)  # noqa: E731  # it moved last, one look later
    assert watch(2, [hangs("a", 7), later], 8) == "rank 1 (b) hangs: no progress for 3 s at step 6"


def test_progress_within_a_step_is_progress():
    assert watch(1, [lambda i: Post("a", beat=i, moves=i, step=7)], 100) is None


def test_waiting_for_a_rank_that_has_finished_names_the_one_that_waits():
    finished = lambda i: Post("b", beat=1, step=9, done=True)  # noqa: E731
    reason = watch(2, [waits_for(1, "a"), finished], 20)
    assert reason == "rank 0 (a) waits for rank 1 (b), which has already finished"


def test_a_finished_rank_may_be_silent():
    finished = lambda i: Post("b", beat=1, step=9, done=True)  # noqa: E731
    assert watch(2, [working("a"), finished], 100) is None


@pytest.mark.parametrize("other", [working("a"), waits_for(1, "a")])
def test_a_silent_rank_is_dead_and_doesnt_hang(other):
    reason = watch(2, [other, dead("stage 1")], 20)
    assert reason == "rank 1 (stage 1) gives no sign of life for 3 s: killed, stopped or cut off"


def test_ranks_cut_off_at_one_time_are_named_together():
    reason = watch(3, [working("a"), dead("b", 2), dead("c", 3)], 20)
    assert reason == "rank 1 (b) and rank 2 (c) give no sign of life for 3 s: killed, stopped or cut off"


def test_a_broken_connection_makes_a_few_missing_beats_enough():
    assert watch(2, [working("a"), dead("b", 2)], 8) is None
    reason = watch(2, [working("a"), dead("b", 2)], 8, impatient=True)
    assert reason == "rank 1 (b) gives no sign of life for 2 s: killed, stopped or cut off"


def test_a_rank_that_was_never_seen_never_came():
    assert watch(2, [working("a"), None], 4) is None
    assert watch(2, [working("a"), None], 8) == "rank 1 never came: no sign of it for 3 s"


def test_who_was_held_up_itself_doesnt_take_the_others_for_dead():
    peers = Peers(2, TIMEOUT_S, INTERVAL_S)
    posts = {0: Post("a", beat=1), 1: Post("b", beat=1)}
    peers.look(posts, INTERVAL_S)
    peers.look(posts, 1000.0)
    assert peers.diagnosis() is None


def test_a_post_survives_the_store():
    post = Post("stage 1, host h", 3, 4, 5, 0, True)
    assert Post.decode(post.encode().encode()) == post
