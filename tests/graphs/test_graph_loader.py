"""Mini-batches are the same for any number of threads, their memory is used again, and no thread outlives trouble."""

import os
import signal
import sys
import threading
import time
from importlib import import_module

import numpy as np
import pytest
import torch

from layerpipe2.engine.frozen_random import frozen_generator
from layerpipe2.errors import UserError
from layerpipe2.graphs import SampledLoader
from layerpipe2.graphs.kernels import batch_key
from layerpipe2.graphs.sampler import Sampler
from tests.graphs import sampling_reference as reference
from tests.graphs.made import random_graph
from tests.pipeline.processes import CONTEXT

GRAPH, NODES, FAN_OUT = random_graph(), np.arange(10, 190), (4, 3, 2)


def loader(**options):
    return SampledLoader(options.pop("graph", GRAPH), NODES, FAN_OUT, 25, **{"shuffle": True, "seed": 7} | options)


def sampling_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sampling")]


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_batches_are_those_of_the_readable_sampler_for_any_number_of_threads(threads):
    made = loader(threads=threads)
    for epoch in (0, 3):
        made.set_epoch(epoch)
        order = frozen_generator("graph", 7, epoch).permutation(NODES)
        batches = list(made)  # all at once: no buffer may be used twice
        assert len(batches) == len(made) == 8
        for number, (x, y) in enumerate(batches):
            nodes = order[25 * number : 25 * number + 25]
            assert (
                x.numpy().tobytes()
                == reference.table(GRAPH, nodes.tolist(), FAN_OUT, reference.key_of(7, epoch, number)).tobytes()
            )
            assert y.tolist() == GRAPH.labels[nodes].tolist()
    assert not sampling_threads()


def test_without_shuffling_every_epoch_has_the_same_batches():
    made = loader(shuffle=False)
    first = list(made)
    assert torch.cat([y for _, y in first]).tolist() == GRAPH.labels[NODES].tolist()
    made.set_epoch(1)
    assert_same(made, first)


def test_half_precision_changes_features_by_rounding_alone():
    width = GRAPH.features.shape[1]
    for (half, y), (full, y_full) in zip(loader(graph=GRAPH.in_half_precision()), loader(), strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half[:, :width], full[:, :width].half().float())
        assert torch.equal(half[:, width:], full[:, width:])
        assert torch.equal(y, y_full)


def test_padded_batches_have_one_shape_and_the_same_neighbours():
    width = GRAPH.features.shape[1]
    shapes = set()
    for (padded, _), (x, _) in zip(loader(padded=True), loader(), strict=True):
        shapes.add((len(padded), (padded[:, width] > -2).sum().item(), (padded[:, width + 2] > -2).sum().item()))
        assert torch.equal(padded[: len(x), :width], x[:, :width])
        assert not padded[len(x) :, :width].any()
        places = x[:, width:] > -2
        assert torch.equal(padded[: len(x), width:][places], x[:, width:][places])
        assert (padded[: len(x), width:][~places] < 0).all()
    assert shapes == {(200, 200, 125)}


def test_memory_is_used_again_when_its_last_tensor_is_gone_and_not_before():
    made, kept = loader(threads=2, ahead=3), []
    for _ in range(5):
        for x, _ in made:
            view = x[3:, 1:]  # as autograd keeps it
            kept = [(view, view.clone()), *kept[:1]]
    assert made._buffers.made <= 2 + 3 + 2 + 2  # kept, prepared, in the loops; some twice, as a larger one was needed
    assert all(torch.equal(view, copy) for view, copy in kept)
    del kept, view, x
    assert len(made._buffers.free) <= 9


@pytest.mark.parametrize("threads", [0, 1])
def test_a_mini_batch_that_was_given_up_is_not_kept_while_the_next_is_prepared(threads):
    made = loader(threads=threads, padded=True)
    for x, y in made:
        del x, y
    assert made._buffers.made <= 1 + (made.ahead if threads else 0)  # threads prepare while the loop still has its own


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_batches_are_prepared_than_may_be_ahead(threads):
    spans = []
    made = loader(threads=threads, ahead=3, spans=spans)
    iterator = iter(made)
    for taken in range(1, 4):
        next(iterator)
        expected, deadline = set(range(taken + 3)), time.monotonic() + 20
        while not expected <= {span.batch for span in [*spans]} and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # in which it must not grow
        assert {span.batch for span in [*spans]} == expected
    iterator.close()
    assert not sampling_threads()
    assert {span.what for span in spans} == {"sample", "slice"}
    assert all(span.start <= span.stop and span.thread.startswith("sampling") for span in spans)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_error_in_a_thread_ends_the_iteration_with_it_and_all_threads(monkeypatch, threads):
    fails, sample = batch_key(7, 0, 3), Sampler.sample

    def broken(self, batch, key):
        if key == fails:
            raise MemoryError("no memory for this one")
        return sample(self, batch, key)

    monkeypatch.setattr(Sampler, "sample", broken)
    made, seen, errors = loader(threads=threads), [], []

    def train():
        try:
            seen.extend(made)
        except MemoryError as error:
            errors.append(error)

    training = threading.Thread(target=train, daemon=True)  # which a hang would not keep from ending the test
    training.start()
    training.join(timeout=20)
    assert not training.is_alive()
    assert (len(seen), str(errors[0])) == (3, "no memory for this one")
    assert not sampling_threads()
    monkeypatch.undo()
    assert_same(made, loader())


def test_an_iteration_that_is_left_leaves_no_threads():
    for _ in loader(threads=4):
        break
    assert not sampling_threads()


def sample_slowly(pipe):
    for _ in SampledLoader(GRAPH, np.arange(180), (4, 3), 2, threads=2):
        pipe.send("training")
        time.sleep(1)


def test_ctrl_c_ends_a_training_at_once(capfd):
    mine, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=sample_slowly, args=(theirs,), daemon=True)
    process.start()
    assert mine.recv() == "training"
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=20)
    assert process.exitcode == 1
    assert capfd.readouterr().err.rstrip().endswith("KeyboardInterrupt")


def test_a_resumed_epoch_goes_on_where_it_was():
    whole, first, second = list(loader()), loader(), loader(threads=0)
    iterator = iter(first)
    for _ in range(3):
        next(iterator)
    second.load_state_dict(first.state_dict())
    assert_same(second, whole[3:])
    assert_same(second, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yielded": 999}, "saved position's batches is 999; give an integer from 0 to 8"),
        ({"yielded": None}, "saved position's batches is None"),
        ({"epoch": -1}, "saved position's epoch is -1"),
        ({"batch_size": 50}, "of a loader whose batch_size is 50, not 25; make the loader as it was, or begin anew"),
        ({"seed": 8}, "whose seed is 8, not 7"),
        ({"nodes": 4}, "whose nodes is 4, not 180"),
        ({"shuffle": 0}, "whose shuffle is 0, not 1"),
    ],
)
def test_a_position_of_another_loader_is_refused(change, message):
    made = loader()
    with pytest.raises(UserError) as error:
        made.load_state_dict(made.state_dict() | change)
    assert message in str(error.value)
    assert len(list(made)) == 8


def test_without_numba_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for module in ("layerpipe2.graphs.kernels", "layerpipe2.compiling"):
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError, match=r"sampled graphs need numba; run `pip install '.\[graphs\]'` in"):
        import_module("layerpipe2.graphs.kernels")
