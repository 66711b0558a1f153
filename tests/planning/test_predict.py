"""What every way of training is predicted to take, from times made by hand of units, memory and links."""

import pytest

from layerpipe2.errors import UserError
from layerpipe2.planning import Link, StageWork, Work
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.predict import Predictor
from layerpipe2.planning.variants import group_starts

BATCH = 64


def test_predictions_are_those_of_the_schedules():
    """Eight equal units, a third of the time forward; the update takes as long as one unit's backward pass."""

    def profile(size, update, strategy, split, threads):
        size *= 3 / 4 if threads == 2 else 1
        update = {"": 2 * size, "stash": 2 * size, "ema-span": 3 * size}[strategy] if update else 0
        return (
            StageWork(Work(size), Work((1 if split else 2) * size), Work(update + size * split), saved_bytes=1),
        ) * 8

    predictor = Predictor(profile, BATCH, 2)
    assert predictor.balance(2).starts == (0, 4)
    assert predictor.speedup("plain") == predictor.speedup("plain/4") == 1
    assert predictor.speedup("async/stash") == pytest.approx(2)
    # One process: 8 units (3 + 2) B. Two: (M + 1) / M of half the passes, then half the updates.
    for micro_batches in (2, 4):
        for name in ("gpipe", "1f1b"):
            expected = 40 / (12 * (micro_batches + 1) / micro_batches + 8)
            assert predictor.speedup(f"{name}/{micro_batches}") == pytest.approx(expected)
    assert predictor.speedup("interleaved/4") > predictor.speedup("1f1b/4")
    # Of equally long forward passes and gradients, a third of 1F1B's idle time is left.
    assert predictor.speedup("zero-bubble/4") == pytest.approx(40 / (12 * (1 + 1 / 4 / 3) + 8))
    assert predictor.speedup("zero-bubble-v/4") is predictor.speedup("fsdp") is None
    assert predictor.speedup("threads/2") == 4 / 3  # as timed
    assert predictor.speedup("ddp") == pytest.approx(40 / (12 + 16))  # half of the passes, and the whole update
    assert predictor.speedup("async/stash/pipedream") == pytest.approx(2)
    assert predictor.speedup("async/stash/split") == pytest.approx(2)
    assert predictor.speedup("async/stash/recompute") == pytest.approx(40 / (20 + 4))  # its first stage, forward twice
    own_cuts = Predictor(profile, BATCH, 2, strategy=None)
    assert own_cuts.cut("async/stash/recompute").starts == (0, 4)
    assert own_cuts.cut("async/stash/recompute").recomputes
    assert predictor.speedup("async/ema-span") == pytest.approx(40 / 24)  # its first stage is slower by a fifth
    with_history = Predictor(profile, 60, 2, "ema-span")
    assert with_history.balance(2).seconds == (24 * 60, 20 * 60)
    assert with_history.balance(1).sequential == 40 * 60
    assert predictor.speedup("exact") == pytest.approx(1)
    assert predictor.speedup("exact/split") is None


def test_bandwidths_and_latency_count():
    """Eight units of 1 s forward and 2 s backward per mini-batch, no update; 1 MB of weights and 4 bytes out each."""
    mega = 2**20

    def profile(size, update, strategy, split, threads):
        share = size / BATCH
        return (StageWork(Work(share), Work(2 * share), Work(0), mega, 0, 4, 4),) * 8

    predictor = Predictor(profile, BATCH, 2)
    slow = Machine().with_link(Link(mega / 8, latency=0.5))
    # DDP: 4 s forward; from its first second of backward pass on, the link is busy with 1 MB for 8 s, and with 7 MB.
    assert predictor.seconds("ddp", slow) == pytest.approx(4 + 1 + 8 * 8 + 2 * 2 * 0.5)
    assert predictor.seconds("ddp", Machine(local=Link(mega), link=Link(mega))) == pytest.approx(12 + 8)
    assert predictor.seconds("ddp", Machine(alone=8 * mega, together=4 * mega)) == pytest.approx(12 + 8)  # copies
    # A pipeline sends 4 bytes either way, which its neighbours share on one host, and wait for elsewhere:
    # there and back within the delay of two mini-batches.
    assert predictor.seconds("async/latest", slow) == pytest.approx(12)
    assert predictor.seconds("async/latest", slow.with_link(Link(0.25))) == pytest.approx((24 + 2 * 16) / 3)
    assert predictor.seconds("async/latest", Machine(local=Link(8), link=Link(8))) == pytest.approx(12 + 2 * 0.25)
    shared = Machine(local=Link(8), link=Link(8), shared=Link(16))
    assert predictor.seconds("async/latest", shared) == pytest.approx(12 + 2 * 0.125)
    assert predictor.seconds("async/latest", shared.with_link(Link(8))) == pytest.approx(12 + 2 * 0.25)
    assert predictor.seconds("exact", slow) == pytest.approx(24 + 2 * 0.5, rel=1e-4)
    assert predictor.seconds("exact", Machine(local=Link(8), link=Link(8))) == pytest.approx(24 + 2 * 0.5)
    assert predictor.seconds("1f1b/2", slow) > predictor.seconds("1f1b/2") == pytest.approx(18)


def test_what_passes_over_memory_takes_longer_when_all_do():
    units = (StageWork(Work(1), Work(2), Work(5)),) * 8
    predictor, crowded = Predictor(lambda *wanted: units, BATCH, 2), Machine(alone=6.0, together=4.0)
    assert predictor.seconds("plain", crowded) == 64
    assert predictor.seconds("async/latest", crowded) == 12 + 20 * 1.5
    assert Machine(alone=4.0, together=6.0).crowding == Machine().crowding == 1


def test_groups_are_cut_by_number_and_balance_by_time():
    units = tuple(StageWork(Work(t), Work(0), Work(0)) for t in (1, 1, 1, 1, 4))
    predictor = Predictor(lambda *wanted: units, BATCH, 2)
    assert predictor.cut("async/latest").starts == (0, 4)
    assert predictor.cut("async/latest/groups").starts == (0, 3)
    assert predictor.speedup("async/latest/groups") == pytest.approx(8 / 5)
    with pytest.raises(UserError, match="9 units do not make 4 groups of equal size"):
        group_starts(9, 4)
