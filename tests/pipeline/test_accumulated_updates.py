"""Several mini-batches per update: processes train as the simulator does, bit for bit, also over a resume."""

import pytest
import torch

from layerpipe2 import make_strategy
from tests.pipeline import processes
from tests.pipeline.fits import (
    Rows,
    assert_equal,
    assert_same_weights,
    decay,
    dense,
    in_process,
    merged,
    noise,
    pipelined,
    trainer,
)
from tests.sampling import sampled
from tests.strategies.test_three_places import Prediction

STRATEGIES = {
    **{name: make_strategy(name) for name in ("stash", "latest", "ema-0.9", "ema-span", "pair")},
    "prediction": Prediction(),
}


def training(name, a, delays=None, folder=None, resume=None, **options):
    """Work: four epochs of six mini-batches; the validation data, five, are no multiple of ``a``."""

    def work(runs):
        how = {"scheduler": decay, "scheduler_interval": "step", "gradient_clip_norm": 0.5, **options}
        rows, module = Rows(), pipelined(dense(), "stash", delays, accumulate=a, **how)
        module.strategy = STRATEGIES[name]
        trainer(runs, [rows], folder, max_epochs=4).fit(module, noise(size=48), noise(), ckpt_path=resume)
        assert rows.rows[-1]["step"] == 24 // a
        return rows.rows, module

    return work


CASES = [
    ("stash", 3, {}),  # delays 4, 2, 0
    ("latest", 6, {}),
    ("ema-0.9", 3, {"drain": True}),
    ("ema-span", 2, {"delays": (7, 3, 0)}),
    ("pair", 2, {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01)}),
    ("prediction", 3, {}),
]


@pytest.mark.parametrize(("name", "a", "options"), sampled(CASES, CASES[3:]))
def test_two_processes_do_the_same_bit_for_bit(name, a, options):
    assert_equal(training(name, a, **options), 2)


RESUMED = [("stash", 2), ("ema-span", 3), ("prediction", 1)]


@pytest.mark.parametrize(("name", "after"), sampled(RESUMED, RESUMED[1:2]))
def test_a_resumed_run_is_the_uninterrupted_one(name, after, tmp_path):
    whole = processes.run(in_process, 2, training(name, 3, (7, 3, 0), tmp_path))
    resumed = processes.run(in_process, after, training(name, 3, (7, 3, 0), tmp_path, tmp_path / "epoch=1.ckpt"))
    assert resumed[0][0][-3:] == whole[0][0][-3:]
    assert_same_weights(merged(resumed), merged(whole))
