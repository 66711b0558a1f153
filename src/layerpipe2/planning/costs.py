"""What a partition costs: memory per stage, bytes over each boundary, operations, and the speed they allow.

Between the forward pass of a mini-batch at stage ``k`` and its backward pass there, the stage starts ``d_k`` more
mini-batches (``d_k`` updates happen meanwhile, one per mini-batch). Its forward pass of mini-batch ``t + d_k`` runs
before its backward pass of ``t``, else the delay were smaller by one. So at its peak the stage holds

    A_k = (d_k + 1) a_k   bytes of activations,  a_k = what one mini-batch keeps for its backward pass,

``K - k`` mini-batches under PipeDream's S (1F1B), ``2 (K - 1 - k) + 1`` under LayerPipe2's 2S, one without a
pipeline. A stage that recomputes its activations keeps the inputs of ``i_k`` bytes instead, ``A_k = a_k + d_k i_k``
where ``i_k < a_k``, for one more forward pass per mini-batch. History costs ``H_k = copies(d_k) p_k`` for ``p_k`` bytes
of parameters, with the copies of the strategy.

**Speed.** All loops through a stage bound the period (time per mini-batch in the steady state) from below, as the
iteration bound does for recursive filters (Parhi, VLSI DSP Systems, 1999, ch. 2): a loop's time over the mini-batches
in it. With computation ``c_k`` and transfers ``x_k`` of boundary k per direction,

    period >= max( c_k,  occupation_k,  max_k (w_k + sum_{j >= k} (c_j - w_j + 2 x_j)) / (d_k + 1) ),

where ``w_j``, the time of the weight gradient, drops out where a stage sends its activation gradient before it
computes the weight gradient (LayerPipe2), and is zero where the backward pass is one task (PipeDream, no pipeline).
Recomputation is in no loop: a stage does it while it waits for the gradient from downstream. It is a bound: where slow
stages and slow links alternate, the simulated schedule takes up to a tenth longer
(``layerpipe2.planning.schedules.simulate`` gives that time itself).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from layerpipe2.delays import Delays
from layerpipe2.errors import integer
from layerpipe2.planning.devices import Device
from layerpipe2.planning.measure import measure
from layerpipe2.planning.work import StageWork, Work
from layerpipe2.stages import partition
from layerpipe2.strategies import make_strategy


@dataclass(frozen=True)
class Costs:
    """Costs of a network cut into K stages, one processor each. Bytes are those of float32.

    Attributes:
        stages: per stage, the work and the sizes of one mini-batch.
        delays: the delays ``d_k`` in updates.
        strategy: weight history, a name of ``layerpipe2.strategies.STRATEGIES``.
        batch_size: samples per mini-batch.
        recomputes: whether mini-batches in flight keep their inputs only, where that is less.
    """

    stages: tuple[StageWork, ...]
    delays: Delays
    strategy: str = "stash"
    batch_size: int = 1
    recomputes: bool = False

    @property
    def parameter_bytes(self) -> tuple[int, ...]:
        """Trainable parameters per stage, once."""
        return tuple(stage.parameter_bytes for stage in self.stages)

    @property
    def activation_bytes(self) -> tuple[int, ...]:
        """Stored activations per stage at the peak, ``A_k``."""
        found = zip(self.delays.per_stage, self.stages, strict=True)
        return tuple(s.saved_bytes + d * min(s.saved_bytes, self._waiting(s)) for d, s in found)

    @property
    def history_bytes(self) -> tuple[float, ...]:
        """Historical weights (or their average) per stage, beside the latest weights."""
        copies = make_strategy(self.strategy).copies
        return tuple(copies(d) * s.parameter_bytes for d, s in zip(self.delays.per_stage, self.stages, strict=True))

    @property
    def boundary_bytes(self) -> tuple[int, ...]:
        """Per boundary and mini-batch: the activation forward and its gradient, as large, back (K - 1,)."""
        return tuple(2 * stage.output_bytes for stage in self.stages[:-1])

    @property
    def flops(self) -> tuple[float, ...]:
        """Operations per stage and mini-batch, forward and backward."""
        return tuple((stage.total + again).flops for stage, again in self._work)

    def seconds(self, device: Device) -> tuple[float, ...]:
        """Return the time ``c_k`` of computation per stage and mini-batch."""
        return tuple(device.seconds(stage.total + again) for stage, again in self._work)

    def balance(self, device: Device | None = None) -> float:
        """Return the balance: mean over maximum of the stages' times (without a device: operations), in (0, 1]."""
        loads = self.flops if device is None else self.seconds(device)
        return sum(loads) / len(loads) / max(loads) if max(loads) else 1.0

    def period(self, device: Device) -> float:
        """Return the iteration bound: least time in s per mini-batch in the steady state."""
        busy = [device.link.occupation(size / 2) for size in self.boundary_bytes]
        split = self.delays.convention == "layerpipe2"
        after = [device.seconds(stage.weight) if split else 0.0 for stage in self.stages]
        computing = [device.seconds(stage.total) for stage in self.stages]
        bound, loop = max((*self.seconds(device), *busy)), 0.0
        for k in reversed(range(len(self.stages))):
            loop += computing[k] - after[k]
            loop += 2 * (busy[k] + device.link.latency) if k < len(busy) else 0.0
            bound = max(bound, (after[k] + loop) / (self.delays.per_stage[k] + 1))
        return bound

    def speedup(self, device: Device) -> float:
        """Return the speed over one processor that does all stages, without communication; at most K."""
        return sum(device.seconds(stage.total) for stage in self.stages) / self.period(device)

    def _waiting(self, stage: StageWork) -> int:
        """Return the bytes of a mini-batch that waits for its backward pass."""
        return stage.input_bytes if self.recomputes else stage.saved_bytes

    @property
    def _work(self) -> list[tuple[StageWork, Work]]:
        """The stages, and what each computes again."""
        found = zip(self.stages, self.delays.per_stage, strict=True)
        return [(s, s.forward if d and self._waiting(s) < s.saved_bytes else Work(0)) for s, d in found]


def network_costs(
    units: Sequence[nn.Module],
    input_shape: Sequence[int],
    group_size: int,
    strategy: str = "stash",
    convention: str = "layerpipe2",
    batch_size: int = 1,
) -> Costs:
    """Return the costs of a network in groups of ``group_size`` units; ``sequential`` is one stage, not delayed.

    The units may live on any device: nothing is computed and no weight is copied.

    Args:
        units: the network as a flat list, input side first.
        input_shape: one sample's shape without the batch, for example (3, 32, 32).
        group_size: units per stage.
        strategy: weight history.
        convention: delay law, a key of ``layerpipe2.delays.DELAY_LAWS``.
        batch_size: samples per mini-batch.

    Raises:
        UserError: on any value out of its range, naming it.
    """
    if strategy == "sequential":
        group_size, convention = len(units), "none"
    return stage_costs(partition(units, group_size), input_shape, strategy, convention, batch_size)


def stage_costs(
    stages: Sequence[nn.Module],
    input_shape: Sequence[int],
    strategy: str = "stash",
    convention: str = "layerpipe2",
    batch_size: int = 1,
    *,
    recomputes: bool = False,
) -> Costs:
    """Return the costs of given stages, see :func:`network_costs`; with ``recomputes``, see :class:`Costs`."""
    delays = Delays.by_law(convention, len(stages))
    make_strategy(strategy)
    return Costs(measure(stages, input_shape, batch_size), delays, strategy, batch_size, recomputes)


def uniform_costs(
    stages: int, forward: float = 1, activation: float = 1, weight: float = 1, message_bytes: int = 0
) -> Costs:
    """Return equal stages with given operations per pass: on ``FlopDevice(1)`` they are the passes' times."""
    integer(stages, "number of stages", 1)
    stage = StageWork(Work(forward), Work(activation), Work(weight), 0, 0, message_bytes, message_bytes)
    return Costs((stage,) * stages, Delays.layerpipe2(stages))
