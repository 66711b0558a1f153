"""PipeMare's T3 (arXiv 1910.05124): the first epochs without delays, as a synchronous pipeline trains; then with them.

In the beginning, where weights move fast and in one direction, a delay does most harm. No strategy can take it away:
it is a schedule of delays, of two trainings, of which the second begins with the first one's weights and optimizer::

    first = PipelinedModule(stages, "none", strategy, optimizer=make)
    trainer(epochs=3).fit(first, data)
    then = PipelinedModule(stages, "pipedream", strategy, optimizer=going_on(make, first.trainer.optimizers[0]))
    trainer(epochs=7).fit(then, data)

A scheduler of the second gets ``last_epoch``, so that it goes on as well. It touches both parts of the cost while it
lasts, and keeps nothing; those epochs take a synchronous pipeline's time. Both trainings are in one process.
"""

import copy
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer

Maker = Callable[[Iterable[nn.Parameter]], Optimizer]


def going_on(make: Maker, before: Optimizer) -> Maker:
    """What makes an optimizer by ``make`` with the state that ``before`` has now: buffers, rates, counts of updates."""
    state = copy.deepcopy(before.state_dict())

    def made(parameters: Iterable[nn.Parameter]) -> Optimizer:
        optimizer = make(parameters)
        optimizer.load_state_dict(state)
        return optimizer

    return made
