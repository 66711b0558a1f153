"""Bytes that the stages of a real pipeline hold, as measured in their processes; the cost model predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from torch import Tensor

from layerpipe2.pipeline.in_flight import InFlight


@dataclass(frozen=True)
class StageMemory:
    """One stage's memory in bytes.

    Attributes:
        stage: its number.
        rank: of the process that owns it.
        delay: in mini-batches.
        parameters: the latest weights, once.
        optimizer: state of its optimizer, such as momentum buffers.
        activations: most that autograd kept for mini-batches in flight (:attr:`InFlight.peak_bytes`).
        history: delay line or averages of the weight history, padding to 64 elements per parameter included.
        checkpoint: most that was kept at an epoch's end so that a full pipeline can be saved.
    """

    stage: int
    rank: int
    delay: int
    parameters: int
    optimizer: int
    activations: int
    history: int
    checkpoint: int = 0

    @classmethod
    def of(cls, passes: InFlight, rank: int, checkpoint: int = 0) -> StageMemory:
        """Measure a stage that has trained for more than ``delay`` mini-batches.

        Not in it: a copy of the stage's weights while it makes an update or recalls others, what a strategy chose for
        forward passes, and messages under way.
        """
        stage = passes.stage
        history = 0 if stage.weights is None else _bytes([*stage.weights.rows, *stage.weights.own_state().values()])
        states = passes.optimizer.state.values() if passes.optimizer is not None else ()
        buffers = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        parameters = _bytes([p for p in stage.parameters if p.requires_grad])
        kept = {"activations": passes.peak_bytes, "history": history, "checkpoint": checkpoint}
        return cls(stage.index, rank, stage.delay, parameters, _bytes(buffers), **kept)


def memory_table(rows: Sequence[StageMemory]) -> str:
    """The rows as text, kilobytes (1000 bytes), with a sum."""
    names, table = [field.name for field in fields(StageMemory)], [astuple(row) for row in rows]
    titles = " ".join(f"{name:>11}" for name in names)
    lines = [" ".join(f"{v:11d}" for v in row[:3]) + "".join(f" {v / 1e3:11.1f}" for v in row[3:]) for row in table]
    sums = "".join(f" {sum(column) / 1e3:11.1f}" for column in list(zip(*table, strict=True))[3:])
    return "\n".join([f"{titles}   (kB)", *lines, f"{'sum':>11}{'':24}{sums}"])


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
