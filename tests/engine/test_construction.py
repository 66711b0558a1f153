"""The pipeline is laid out when training starts: before, a module takes no memory beside its network."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerpipe2 import PipelineStrategy, UserError
from tests.engine.training import module
from tests.pipeline import fits, processes

MB = 2**20
WIDTH, DELAYS = 1024, (30, 20, 10, 0)  # 4 MB a stage, 240 MB of stashed weights, 40 MB of them in the second process


class Allocated(TorchDispatchMode):
    """Bytes of all tensors that operations return."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.bytes += sum(t.nbytes for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


def layers():
    return [nn.Linear(WIDTH, WIDTH, bias=False) for _ in DELAYS]


def wide():
    return fits.pipelined(layers(), "stash", DELAYS)


def test_a_module_that_does_not_train_has_no_delay_line():
    torch.manual_seed(0)
    with Allocated() as network:
        layers()
    with Allocated() as pipelined:
        wide()
    assert pipelined.bytes < network.bytes + MB


def grown():
    """Most memory in MB that this process takes in two mini-batches of training, beside what it has before."""
    ctypes.CDLL(None).malloc_trim(0)  # what other tests have freed could be used again
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_kb()
    one = fits.trainer(PipelineStrategy(timeout_s=60), max_epochs=1, num_sanity_val_steps=0)
    one.fit(wide(), fits.noise((WIDTH,), size=4, batch=2), fits.noise((WIDTH,), size=2, batch=2))
    return (peak_kb() - before) / 1024


def peak_kb():
    """Largest resident memory of this process so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_no_process_ever_holds_the_whole_networks_stash():
    first, second = processes.run(grown, 2)
    assert first > 200, "the first two stages' stash"
    assert second < 160, "40 MB, the network, gradients and messages: less than the 240 MB of all stages"


def test_before_training_there_is_no_pipeline():
    with pytest.raises(UserError, match="the pipeline is laid out when training starts; call fit"):
        _ = module("stash").engine
