"""The way of messages between GPUs, with gloo on CPUs in the place of NCCL: header and tensors apart.

gloo without tags delivers in the order of the calls, as NCCL does: a link that shared its communicator, or took its
messages in another order than they were sent, would get the wrong ones here, too.
"""

import os

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from layerpipe2 import UserError
from layerpipe2.pipeline import process_group
from layerpipe2.pipeline.device_links import DeviceInbox, DeviceOutbox, OnDevice
from layerpipe2.pipeline.devices import describe, own_device, transport_of
from layerpipe2.pipeline.environment import GPU_SETTINGS
from layerpipe2.pipeline.links import Inbox, Outbox
from tests.pipeline import processes
from tests.pipeline.fits import ByDevice, Case, dense, in_process, noise, pipelined, trainer
from tests.sampling import sampled


def test_no_reception_before_its_header_and_no_header_before_its_transfer():
    first, last = processes.run(_order, 2, Case("stash"))
    for said, before, after in (first, "send tensors", "send header"), (last, "header is there", "receive tensors"):
        assert all(said[:i].count(after) <= said[:i].count(before) for i in range(len(said) + 1))
        assert said.count(after) > 10


def _order(case):
    """What one process does with messages of activations, in order."""
    said = []

    def note(cls, name, what, *, when_done=False):
        call = getattr(cls, name)

        def noted(self, *args):
            connects = isinstance(self, OnDevice) and not self.capacity
            said.extend([] if when_done or connects else [what])
            result = call(self, *args)
            said.extend([what] if when_done else [])
            return result

        setattr(cls, name, noted)

    if os.environ["RANK"] == "0":
        note(DeviceOutbox, "_send", "send tensors")
        note(Outbox, "send", "send header")
    else:
        note(DeviceInbox, "_receive", "receive tensors")
        note(Inbox, "receive", "header is there", when_done=True)
    in_process(case, strategy=ByDevice)
    return said


class Pauses(pl.Callback):
    """In a hook of validation: how many transfers of activations to and from this process were begun."""

    def __init__(self, module, hook):
        self.module, self.counts = module, []
        setattr(self, hook, self.count)

    def count(self, *_):
        links = self.module.execution.loop.neighbours
        self.counts.append([link and link.begun for link in (links.activations_out, links.activations_in)])


# In the middle of an epoch the last step doesn't know that validation follows.
@pytest.mark.parametrize(
    ("options", "hook"), [({}, "on_validation_start"), ({"val_check_interval": 2}, "on_validation_batch_start")]
)
@pytest.mark.parametrize("delays", [None, (9, 2, 0)], ids=str)
def test_nothing_is_under_way_during_a_pause(delays, options, hook):
    first, second = processes.run(lambda: _pauses(delays, options, hook), 2)
    assert len(first) > 2
    assert [sent for sent, _ in first] == [received for _, received in second]
    assert first[0][0] > 2


def _pauses(delays, options, hook):
    _count_transfers()
    module = pipelined(dense(), delays=delays)
    pauses = Pauses(module, hook)
    made = trainer(ByDevice(timeout_s=20), [pauses], num_sanity_val_steps=0, **options)
    made.fit(module, noise(size=80), noise())
    return pauses.counts


def _count_transfers():
    for cls, name in ((DeviceOutbox, "_send"), (DeviceInbox, "_receive")):
        transfer = getattr(cls, name)

        def counted(self, message, transfer=transfer):
            self.begun = getattr(self, "begun", -1) + 1  # the first one makes the communicator
            return transfer(self, message)

        setattr(cls, name, counted)


@pytest.mark.parametrize("kind", sampled(["kill", "nan"], ["nan"]))
def test_faults_are_named(kind, tmp_path):
    found = processes.ends(in_process, 2, tmp_path, Case(fault=f"{kind}@1"), timeout_s=5, strategy=ByDevice)
    assert found[0][0] == 2
    assert "rank 1" in found[0][1]


@pytest.fixture
def two_gpus(monkeypatch):
    """Environment of a machine with two GPUs for two processes, without :data:`GPU_SETTINGS`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for name in GPU_SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("two_gpus")
def test_devices_are_dealt_out(monkeypatch):
    cpu, gpus = torch.device("cpu"), []
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        gpus.append(own_device(CUDAAccelerator()))
    assert [gpu.index for gpu in gpus] == [0, 1, 0, 1]
    assert own_device(CPUAccelerator()) == cpu
    assert (transport_of(cpu), describe(cpu, 2)) == ("gloo", None)
    assert transport_of(gpus[1]) == "nccl"
    assert {name: os.environ[name] for name in GPU_SETTINGS} == GPU_SETTINGS
    assert "messages by NCCL" in describe(gpus[1], 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert transport_of(gpus[1]) == "gloo"
    assert "share a GPU" in describe(gpus[1], 4)


@pytest.mark.usefixtures("two_gpus")
def test_what_would_stop_a_gpu_is_refused_or_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    with pytest.warns(UserWarning, match="^CUDA_DEVICE_MAX_CONNECTIONS=32 comes too late"):
        own_device(CUDAAccelerator())
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with pytest.raises(UserError, match="CUDA_LAUNCH_BLOCKING has a process wait"):
        own_device(CUDAAccelerator())


def test_another_transport_is_refused(tmp_path):
    code, said = processes.ends(_with_rank_as_transport, 2, tmp_path)[1]
    assert code == 2
    assert "differs from rank 0 in transport of messages" in said


def _with_rank_as_transport():
    process_group.transport_of = lambda device: f"by rank {os.environ['RANK']}"
    in_process(Case(), strategy=ByDevice)
