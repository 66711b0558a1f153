"""Bytes that the stages of a real pipeline hold, as measured in their processes; the cost model predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from layerpipe2.distributed.process_stage import ProcessStage


@dataclass(frozen=True)
class StageMemory:
    """One stage's memory in bytes.

    Attributes:
        stage: its number.
        rank: of the process that owns it.
        delay: in updates.
        parameters: the latest weights, once.
        optimizer: state of its optimizer, such as momentum buffers.
        activations: most that autograd kept for mini-batches in flight (:attr:`ProcessStage.peak_bytes`).
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
    def of(cls, stage: ProcessStage, rank: int, checkpoint: int = 0) -> StageMemory:
        """Of a stage that has trained for more than ``delay`` updates.

        Not in it: a copy of the stage's weights while it makes an update or recalls others, and messages under way.
        """
        history = 0 if stage.weights is None else _bytes([stage.weights.line, *stage.weights.state.values()])
        states = stage.optimizer.state.values() if stage.optimizer is not None else ()
        buffers = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return cls(
            stage=stage.index,
            rank=rank,
            delay=stage.delay,
            parameters=_bytes([p for p in stage.module.parameters() if p.requires_grad]),
            optimizer=_bytes(buffers),
            activations=stage.peak_bytes,
            history=history,
            checkpoint=checkpoint,
        )


def memory_table(rows: Sequence[StageMemory]) -> str:
    """The rows as text, kilobytes (1000 bytes), with a sum."""
    names = [field.name for field in fields(StageMemory)]
    lines = [" ".join(f"{name:>11}" for name in names) + "   (kB)"]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append(" ".join(f"{v:11d}" for v in values[:3]) + " " + " ".join(f"{v / 1e3:11.1f}" for v in values[3:]))
    sums = [sum(getattr(row, name) for row in rows) / 1e3 for name in names[3:]]
    lines.append(" ".join(["sum".rjust(11), " " * 11, " " * 11, *(f"{value:11.1f}" for value in sums)]))
    return "\n".join(lines)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
