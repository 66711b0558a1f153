"""Data parallel training as torch ships it: every process trains the whole network on its part of each mini-batch."""

from collections.abc import Iterable

import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from experiments.pipelines.peers import Batch, MakeOptimizer
from layerpipe2.errors import UserError


class DataParallelTrainer:
    """This process' part, with the cross entropy; needs an initialised process group.

    Updates are those of one process: the mean of the parts' gradients is the gradient of the whole mini-batch (networks
    with batch normalisation excepted: its statistics are those of a part).

    Args:
        kind: ``ddp``: every process has all weights; ``fsdp``: a shard of each unit's, which the processes gather
            before a pass through the unit, and whose gradients they reduce to the shards.
        network: the same weights on every rank.
        make_optimizer: parameters of this rank -> optimizer.
    """

    def __init__(self, kind: str, network: nn.Sequential, make_optimizer: MakeOptimizer) -> None:
        processes, size = dist.get_world_size(), sum(p.nbytes for p in network.parameters())
        self.stages, self._forward = {0: network}, DistributedDataParallel(network) if kind == "ddp" else network
        if kind == "fsdp":
            mesh = init_device_mesh("cpu", (processes,))
            for unit in (*network, network):
                fully_shard(unit, mesh=mesh)
        self.optimizer = make_optimizer(network.parameters())
        # Around a ring of n, a gather or a reduction sends (n - 1) n-ths of the bytes, and an all-reduce is both. FSDP
        # gathers a unit in the forward and again in the backward pass.
        self.sent_bytes = (2 if kind == "ddp" else 3) * size * (processes - 1) // processes

    def train(self, batches: Iterable[Batch]) -> list[float]:
        """One update per mini-batch; this rank's losses, each the mean of its part.

        Raises:
            UserError: on a mini-batch that the processes cannot share evenly.
        """
        rank, processes, losses = dist.get_rank(), dist.get_world_size(), []
        for x, y in batches:
            if len(x) % processes:
                what = f"{processes} processes cannot share {len(x)} samples evenly"
                raise UserError(f"{what}; give a batch size that is a multiple")
            part, target = x.chunk(processes)[rank], y.chunk(processes)[rank]
            loss = F.cross_entropy(self._forward(part), target)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return losses
