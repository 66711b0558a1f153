"""Sampled mini-batches arrive on the GPU as they are on the CPU, by way of pinned memory and a stream of their own."""

import numpy as np
import pytest
import torch

from layerpipe2.graphs import SampledLoader
from tests.graphs.made import random_graph


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_are_those_of_the_cpu(threads, half):
    graph = random_graph().in_half_precision() if half else random_graph()
    here, there = (
        SampledLoader(graph, np.arange(180), (4, 3, 2), 25, shuffle=True, threads=threads, device=device, spans=[])
        for device in ("cpu", "cuda")
    )
    for epoch in range(3):
        for loader in (here, there):
            loader.set_epoch(epoch)
        for mine, theirs in zip(here, there, strict=True):
            busy = torch.ones(2000, 2000, device="cuda") @ torch.ones(2000, 2000, device="cuda")
            assert all(tensor.is_cuda for tensor in theirs)
            assert all(torch.equal(a, b.cpu()) for a, b in zip(mine, theirs, strict=True))
            del busy
    assert there._buffers.made <= 2 * (threads + 2) * 4
    assert {span.what for span in there.spans} == {"sample", "slice", "transfer"}
