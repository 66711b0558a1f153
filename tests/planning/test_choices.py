"""What can be done with some processes: which choices there are, their times, and the memory of the fullest process."""

import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.planning import StageWork, Work
from layerpipe2.planning.choices import choices, optimizer_copies
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.predict import Predictor

STRATEGIES = ("stash", "latest", "ema-window")


def profile(size, update, strategy, split, threads):
    """Eight equal units of 100 bytes of weights, which keep 8 bytes per sample; threads share nine tenths of it."""
    size_each = size * (0.1 + 0.9 / threads)
    return (StageWork(Work(size_each), Work(2 * size_each), Work(0), 100, 8 * size, 4, 4),) * 8


def found(batch_size, processes=2, profile=profile, threads=1, one_host=True):
    predictor = Predictor(profile, batch_size, processes, None, threads)
    rows = choices(predictor, Machine(), STRATEGIES, one_host=one_host, optimizer_copies=1)
    return {row.variant: row for row in rows}


def test_every_choice_has_its_time_and_what_the_fullest_process_holds():
    rows = found(64)
    micro = ["gpipe/4", "1f1b/4", "zero-bubble/4"]
    assert list(rows) == ["plain", "threads/2", "ddp", *micro, *(f"async/{name}" for name in STRATEGIES)]
    step = 8 * 3 * 64
    assert [rows[name].seconds for name in ("plain", "threads/2", "ddp")] == [step, 0.55 * step, step / 2]
    assert rows["gpipe/4"].seconds == pytest.approx(step / 2 * 5 / 4)
    assert rows["async/stash"].seconds == pytest.approx(step / 2)
    # Weights, gradients and momentum are 3 x 800 bytes, half of it on each of two processes; 8 x 512 bytes are kept.
    kept, half = 8 * 512, 1200
    assert rows["plain"].held_bytes == rows["threads/2"].held_bytes == 2400 + kept
    assert rows["ddp"].held_bytes == 2400 + 800 + kept / 2
    assert rows["gpipe/4"].held_bytes == half + kept / 2
    assert rows["1f1b/4"].held_bytes == rows["zero-bubble/4"].held_bytes == half + kept / 2 * 2 / 4
    for strategy, copies in (("stash", 2), ("latest", 0), ("ema-window", 1)):  # three mini-batches in flight
        assert rows[f"async/{strategy}"].held_bytes == half + 3 * kept / 2 + 400 * copies


def test_what_a_mini_batch_or_a_place_does_not_allow_is_no_choice():
    assert "threads/6" in found(64, threads=3)
    assert "threads/2" not in found(64, one_host=False)
    assert not {"gpipe/4", "1f1b/4"} & set(found(6))
    assert "ddp" in found(6)
    assert "ddp" not in found(7)

    def unsplit(size, update, strategy, split, threads):
        if split:
            raise UserError("to split the backward pass, every layer must map one tensor to one tensor")
        return profile(size, update, strategy, split, threads)

    assert set(found(64)) - set(found(64, profile=unsplit)) == {"zero-bubble/4"}


@pytest.mark.parametrize(
    ("make", "copies"),
    [
        (lambda p: torch.optim.SGD(p, 0.1), 0),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 1),
        (lambda p: torch.optim.AdamW(p), 2),
    ],
)
def test_optimizers_keep_copies_of_the_weights(make, copies):
    assert optimizer_copies(make) == copies
