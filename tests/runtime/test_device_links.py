"""The way of messages between GPUs, with gloo on CPUs in the place of NCCL: header and tensors apart.

gloo without tags delivers in the order of the calls, as NCCL does: a link that shared its communicator, or took its
messages in another order than they were sent, would get the wrong ones here, too.
"""

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from layerpipe2.runtime.devices import describe, own_device, transport_of
from layerpipe2.runtime.endpoint import DeviceEndpoint
from layerpipe2.runtime.strategy import PipelineStrategy
from tests.runtime import processes
from tests.runtime.fits import assert_equal, fit, noise, pipelined
from tests.runtime.test_boundaries import STAGES, tokens
from tests.runtime.training import Case, train


class ByDevice(PipelineStrategy):
    """Sends as between GPUs."""

    def endpoint(self):
        made = super().endpoint()
        return DeviceEndpoint(
            made.rank, made.world_size, made.device, made.timeout, made.watch, made.first_tag, backend="gloo"
        )


def by_device(case, timeout_s=20):
    return train(case, ByDevice(timeout_s=timeout_s))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(
    "case", [Case("stash"), Case("ema-span", "pipedream"), Case("pair", drain=True), Case(delays=(9, 2, 2, 0))], ids=str
)
def test_equals_the_simulator(case, world):
    metrics, weights, steps = train(case)
    found = processes.run(by_device, world, case)
    assert all((rows, count) == (metrics, steps) for rows, _, count in found)
    merged = {name: value for _, own, _ in found for name, value in own.items()}
    assert sorted(merged) == sorted(weights)
    assert [name for name, value in weights.items() if not torch.equal(merged[name], value)] == []


@pytest.mark.parametrize("case", STAGES)
def test_stages_without_gradients(case):
    assert_equal(fit(lambda: pipelined(STAGES[case]()), max_steps=12), 2, strategy=ByDevice)


def test_integers_have_no_gradient_to_send():
    stages = lambda: [torch.nn.Identity(), torch.nn.Embedding(7, 12), torch.nn.Sequential(  # noqa: E731
        torch.nn.Flatten(), torch.nn.Linear(72, 4))]  # fmt: skip
    assert_equal(fit(lambda: pipelined(stages()), data=tokens), 3, strategy=ByDevice)


def test_a_smaller_last_batch():
    assert_equal(
        fit(lambda: pipelined(STAGES["no parameters last"]()), data=lambda: noise(size=37)), 2, strategy=ByDevice
    )


def test_no_reception_before_its_header_and_no_header_before_its_transfer():
    first, last = processes.run(_order, 2, Case("stash"))
    tensors_sent, headers_sent = 0, 0
    for what in first:
        tensors_sent, headers_sent = tensors_sent + (what == "send tensors"), headers_sent + (what == "send header")
        assert headers_sent <= tensors_sent
    assert headers_sent > 10
    awaited, headers_come = 0, 0
    for what in last:
        awaited, headers_come = awaited + (what == "receive tensors"), headers_come + (what == "header is there")
        assert awaited <= headers_come
    assert awaited > 10


def _order(case):
    """What one process does with messages of activations, in order."""
    from layerpipe2.runtime.device_links import DeviceInbox, DeviceOutbox

    said = []
    note = lambda what, call: lambda *a, **k: (said.append(what), call(*a, **k))[1]  # noqa: E731
    after = lambda what, call: lambda *a, **k: (call(*a, **k), said.append(what))[0]  # noqa: E731

    def watched(cls, prepare):
        original = cls.__init__

        def init(self, *args, **options):
            original(self, *args, **options)
            prepare(self)

        cls.__init__ = init

    def outbox(link):
        link._send = note("send tensors", link._send)
        link.headers.send = note("send header", link.headers.send)

    def inbox(link):
        link._receive = note("receive tensors", link._receive)
        link.headers.receive = after("header is there", link.headers.receive)

    rank = int(processes.os.environ["RANK"])
    watched(*((DeviceOutbox, outbox) if rank == 0 else (DeviceInbox, inbox)))
    by_device(case)
    return said


@pytest.mark.parametrize("kind", ["kill", "nan"])
def test_faults_are_named(kind, tmp_path):
    found = processes.ends(by_device, 2, tmp_path, Case(fault=f"{kind}@1"), timeout_s=5)
    code, said = found[0]
    assert code == 2
    assert "rank 1" in said


def test_devices_are_dealt_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    cpu, gpus = torch.device("cpu"), [own_device(CUDAAccelerator(), rank) for rank in range(4)]
    assert [gpu.index for gpu in gpus] == [0, 1, 0, 1]
    assert own_device(CPUAccelerator(), 3) == cpu
    assert (transport_of(cpu), describe(cpu, 2)) == ("gloo", None)
    assert transport_of(gpus[1]) == "nccl"
    assert "messages by NCCL" in describe(gpus[1], 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert transport_of(gpus[1]) == "gloo"
    assert "share a GPU" in describe(gpus[1], 4)


def test_another_transport_is_refused(tmp_path, monkeypatch):
    code, said = processes.ends(_with_rank_as_transport, 2, tmp_path)[1]
    assert code == 2
    assert "differs from rank 0 in transport of messages" in said


def _with_rank_as_transport():
    from layerpipe2.runtime import strategy

    strategy.transport_of = lambda device: f"by rank {processes.os.environ['RANK']}"
    by_device(Case())
