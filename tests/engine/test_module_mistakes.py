"""What a module can't be made of is told in one line."""

import pytest
import torch

from layerpipe2 import Delays, PipelinedModule, UserError, make_history

LAYERS = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("delays", "history", "optimizer", "message"),
    [
        ([2, 0], "stash", sgd, r"delays is a list; give a Delays, such as Delays\.layerpipe2\(4\)"),
        (None, None, sgd, r"history is a str; give a WeightHistory, such as make_history\('ema-span'\)"),
        (None, "stash", sgd([torch.nn.Parameter(torch.zeros(1))]), "optimizer is no function"),
    ],
)
def test_what_a_module_is_made_of(delays, history, optimizer, message):
    with pytest.raises(UserError, match=message):
        PipelinedModule(
            LAYERS,
            delays or Delays.layerpipe2(2),
            make_history(history) if history else "stash",
            optimizer=optimizer,
        )


def test_an_optimizer_that_is_not_returned():
    module = PipelinedModule(LAYERS, Delays.layerpipe2(2), make_history("stash"), optimizer=lambda p: None)
    with pytest.raises(UserError, match=r"optimizer returned a NoneType; it must return a torch\.optim optimizer"):
        module.configure_optimizers()
