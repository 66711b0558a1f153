"""What trains beside stashing trains as it would alone, and stashing doesn't notice."""

import pytest
import torch
import torch.nn.functional as F

from layerpipe2 import Delays, make_strategy
from layerpipe2.advice.side_by_side import KeptLoss, SideBySide
from tests.engine.training import assert_bit_equal, fit, module
from tests.sampling import sampled

OPTIONS = {
    "rate halved each epoch": {},
    "streams, clipped, rate lowered each step": {
        "stage_seed": 4,
        "gradient_clip_norm": 0.1,
        "scheduler_interval": "step",
    },
    "bf16": {"precision": "bf16"},
    "adamw": {"optimizer": "adamw", "scheduler": None},
    "drain": {"drain": True, "delays": Delays.custom([2, 1, 1, 0])},
}


@pytest.mark.parametrize("options", sampled([*OPTIONS], ["streams, clipped, rate lowered each step", "drain"]))
def test_each_training_is_bit_for_bit_the_one_alone(options):
    """With dropout, BatchNorm, and data that are shuffled by the same generator."""
    made, names = OPTIONS[options], ("latest", "pair")
    loss = KeptLoss(F.cross_entropy)
    beside = SideBySide({name: make_strategy(name) for name in names}, 1000, loss)
    stashed = fit(module("stash", loss=loss, **made), 2, callbacks=[beside], enable_checkpointing=False)
    after = torch.get_rng_state()
    assert_bit_equal(stashed.state_dict(), fit(module("stash", **made), 2).state_dict())
    assert torch.equal(after, torch.get_rng_state())
    for name in names:
        alone = fit(module(name, **made), 2)
        companion = torch.nn.ModuleList(beside._companions[name]._engine.stages)
        assert_bit_equal(companion.state_dict(), alone.stages.state_dict())
    assert beside.updates == 12
