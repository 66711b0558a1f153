"""Faults of real ranks over gloo, without a launcher: all others end with one line that names the rank and why."""

import pytest

from tests.distributed.fork_server import ForkServer

LIMIT_S = 60.0  # for a machine under load; the timeouts are 2 s
STEPS = 100_000


@pytest.fixture(scope="module")
def server():
    with ForkServer() as running:
        yield running


def lines(answer):
    return [line for line in answer["stderr"].splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("fault", "failed_ends_with", "cause"),
    [
        ("kill@1", -9, "rank 1 (stage 1) gives no sign of life"),
        ("kill@2", -9, "rank 2 (stage 2) gives no sign of life"),
        ("kill@0", -9, "rank 0"),  # rank 0 serves the store here
        ("hang@1", 2, "rank 1 (stage 1) hangs: no progress for 2 s at step 24"),
        ("hang@2", 2, "rank 2 (stage 2) hangs: no progress for 2 s at step 24"),
        ("hang@0", 2, "rank 0 (stage 0) hangs: no progress for 2 s at step 24"),
        ("nan@1", 2, "rank 1 (stage 1): the loss is nan at step 25"),
        ("nan@0", 2, "rank 0 (stage 0): the loss is nan at step 25"),
        ("bug@2", 1, "rank 2 (stage 2): ended before its training did"),
    ],
)
def test_all_ranks_end_and_name_the_rank(server, fault, failed_ends_with, cause):
    answers = server.run(world_size=3, fault=fault, steps=STEPS, limit_s=LIMIT_S)
    failed = int(fault[-1])
    assert answers[failed]["code"] == failed_ends_with, answers
    for answer in answers[:failed] + answers[failed + 1 :]:
        assert answer["code"] == 2, answers
        assert len(lines(answer)) == 1, answers
        assert lines(answer)[0].startswith(f"layerpipe2: {cause}"), answers
        assert lines(answer)[0].endswith("; all ranks end"), answers


@pytest.mark.parametrize("failed", [0, 1])
def test_a_stopped_rank_ends_the_others_and_itself_once_it_goes_on(server, failed):
    answers = server.run(world_size=3, fault=f"stop@{failed}", steps=STEPS, limit_s=LIMIT_S, resume=failed)
    assert [answer["code"] for answer in answers] == [2, 2, 2], answers
    for answer in answers:
        if answer["rank"] != failed:
            assert len(lines(answer)) == 1, answers
            assert f"rank {failed}" in lines(answer)[0], answers
            assert "no sign" in lines(answer)[0], answers


@pytest.mark.parametrize(
    ("absent", "cause"), [(1, "rank 1 never came"), (0, "rank 0, or node 0's launcher, never came")]
)
def test_a_rank_that_never_comes_is_named(server, absent, cause):
    answers = server.run(world_size=3, fault="", steps=STEPS, limit_s=LIMIT_S, absent=absent, patience_s=2.0)
    for answer in answers:
        assert answer["code"] == 2, answers
        assert len(lines(answer)) == 1, answers
        assert cause in lines(answer)[0], answers


def test_two_trainings_in_a_row_end_in_order_and_say_nothing(server):
    answers = server.run(world_size=3, fault="", steps=30, times=2, limit_s=LIMIT_S)
    assert [(answer["code"], answer["stderr"]) for answer in answers] == [(0, "")] * 3
