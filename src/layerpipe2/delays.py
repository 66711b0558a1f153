"""Delays as data: how many mini-batches late each stage reads its weights.

Each mini-batch makes an update, unless ``accumulate`` says otherwise.

Stage ``k`` of ``K`` has ``S = K - 1 - k`` downstream stages. In ``layerpipe2`` every stage does one forward and one
backward per tick, so that a gradient comes back ``d = 2 S`` updates after the forward pass that it belongs to
(secondary summaries of LayerPipe2; derived by delayed-gradient insertion and retiming). In ``pipedream`` (asynchronous
1F1B) a stage does a forward *or* a backward per tick, and ``d = S``. All units of a stage share its delay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from layerpipe2.errors import UserError, integer, look_up, shown

_MOST_STAGES = 5_000
MOST_UPDATES = 10_000
"""Longest delay, and most columns of a grid: what is far beyond any pipeline is a slip, and would fill the memory."""


@dataclass(frozen=True)
class DelayLaw:
    """The rule that gives every stage its delay.

    Attributes:
        name: as in options and records (there the key is ``convention``).
        label: for readers, with the law; S is the number of downstream stages.
        formula: the law alone.
        description: how the stages share time; a tick is one turn of every stage.
        delays: number of stages -> delay of every stage, mini-batches.
        clock: (K, k) -> ticks between mini-batches, tick of stage k's first forward, tick of its first backward.
            Counting its backward ticks that precede a forward tick gives the delay back.
    """

    name: str
    label: str
    formula: str
    description: str
    delays: Callable[[int], tuple[int, ...]]
    clock: Callable[[int, int], tuple[int, int, int]]

    @property
    def turn(self) -> int:
        """Ticks that lie between the last stage's forward and its backward task."""
        _, forward, backward = self.clock(1, 0)
        return backward - forward


_ROWS = (
    DelayLaw(
        "layerpipe2",
        "LayerPipe2, 2S",
        "2S",
        "every stage does a forward and a backward task in each tick",
        delays=lambda K: tuple(2 * (K - 1 - k) for k in range(K)),
        clock=lambda K, k: (1, k, 2 * (K - 1) - k),
    ),
    DelayLaw(
        "pipedream",
        "PipeDream, S",
        "S",
        "asynchronous 1F1B: every stage does a forward or a backward task in each tick",
        delays=lambda K: tuple(K - 1 - k for k in range(K)),
        clock=lambda K, k: (2, k, 2 * K - 1 - k),
    ),
    DelayLaw(
        "none",
        "no delay",
        "0",
        "one task per tick in the whole machine: no pipelining",
        delays=lambda K: (0,) * K,
        clock=lambda K, k: (2 * K, k, 2 * K - 1 - k),
    ),
)

DELAY_LAWS: dict[str, DelayLaw] = {law.name: law for law in _ROWS}
"""Name -> delay law."""


@dataclass(frozen=True)
class Delays:
    """One delay per stage, in mini-batches, input side first; each makes an update, unless ``accumulate`` is given.

    Attributes:
        per_stage: ``d_k``: the forward pass of mini-batch ``t`` at stage ``k`` reads ``W_k(max(0, t - d_k))``.
        convention: the delay law, ``layerpipe2``, ``pipedream``, ``none`` or ``custom``; state it beside every result.

    Raises:
        UserError: on no stages or more than 5,000, or a delay that is not an integer from 0 to 10,000.
    """

    per_stage: tuple[int, ...]
    convention: str = "custom"

    def __post_init__(self) -> None:
        if not isinstance(self.per_stage, tuple | list):
            raise UserError(f"delays are {shown(self.per_stage)}; give a list of integers, one per stage")
        if not self.per_stage:
            raise UserError("there are no stages; give at least one delay")
        integer(len(self.per_stage), "number of stages", 1, _MOST_STAGES)
        for k, delay in enumerate(self.per_stage):
            integer(delay, f"delay of stage {k}", 0, MOST_UPDATES)
        if self.convention == "custom":
            return
        derived = look_up(DELAY_LAWS, self.convention, "delay law").delays(len(self.per_stage))
        if self.per_stage != derived:
            raise UserError(
                f"delays {shown(list(self.per_stage))} are not those of '{self.convention}' with {self.num_stages} "
                f"stages, {shown(list(derived))}; use Delays.custom for your own"
            )

    @classmethod
    def by_law(cls, name: str, num_stages: int) -> Delays:
        """The delays that a law of :data:`DELAY_LAWS` gives.

        Raises:
            UserError: on an unknown law, or a number of stages that is not an integer from 1 to 5,000.
        """
        law = look_up(DELAY_LAWS, name, "delay law")
        return cls(law.delays(integer(num_stages, "number of stages", 1, _MOST_STAGES)), name)

    @classmethod
    def layerpipe2(cls, num_stages: int) -> Delays:
        """``d_k = 2 (K - 1 - k)``: forward and backward of every stage in each tick."""
        return cls.by_law("layerpipe2", num_stages)

    @classmethod
    def pipedream(cls, num_stages: int) -> Delays:
        """``d_k = K - 1 - k``: PipeDream's asynchronous 1F1B, one forward or one backward per tick."""
        return cls.by_law("pipedream", num_stages)

    @classmethod
    def none(cls, num_stages: int) -> Delays:
        """No delays: each mini-batch passes the whole network, forward and back, before the next one starts."""
        return cls.by_law("none", num_stages)

    @classmethod
    def custom(cls, delays: Sequence[int]) -> Delays:
        """Delays of your own, one per stage; see :attr:`is_realizable`."""
        return cls(tuple(delays) if isinstance(delays, Iterable) else delays, "custom")

    @property
    def num_stages(self) -> int:
        """Number of stages ``K``."""
        return len(self.per_stage)

    @property
    def is_realizable(self) -> bool:
        """Whether a pipeline can have these delays: none may grow towards the output.

        The loop forward k -> k+1 -> back to k holds ``d_k - d_{k+1}`` registers, and registers cannot be negative.
        """
        return all(a >= b for a, b in itertools.pairwise(self.per_stage))

    def grid(self, ticks: int) -> str:
        """What happens when: a row per stage, a column per tick, ``F3`` forward and ``B3`` backward of batch 3.

        Delays of your own have no clock: the columns are mini-batches and the cells the weight version that the
        forward pass reads, ``W3`` after three updates.

        >>> print(Delays.layerpipe2(3).grid(6))
        tick      0   1     2     3     4     5
        stage 0  F0  F1    F2    F3  F4B0  F5B1
        stage 1      F0    F1  F2B0  F3B1  F4B2
        stage 2          F0B0  F1B1  F2B2  F3B3
        >>> print(Delays.custom([2, 0]).grid(4))
        batch     0   1   2   3
        stage 0  W0  W0  W0  W1
        stage 1  W0  W1  W2  W3

        Raises:
            UserError: on a number of columns out of range.
        """
        rows = self.cells(ticks)
        head = ["batch" if self.convention == "custom" else "tick", *map(str, range(ticks))]
        return "\n".join(aligned([head, *([f"stage {k}", *row] for k, row in enumerate(rows))], left=1))

    def cells(self, ticks: int) -> list[list[str]]:
        """The same as data: a list per stage, of a text per column, which is empty where the stage waits.

        Raises:
            UserError: on a number of columns out of range.
        """
        integer(ticks, "number of columns", 1, MOST_UPDATES)
        if self.convention == "custom":
            return [[f"W{max(0, t - d)}" for t in range(ticks)] for d in self.per_stage]
        return [[self._cell(k, tick) for tick in range(ticks)] for k in range(self.num_stages)]

    def _cell(self, stage: int, tick: int) -> str:
        period, forward, backward = DELAY_LAWS[self.convention].clock(self.num_stages, stage)
        cell = ""
        for letter, start in (("F", forward), ("B", backward)):
            batch, phase = divmod(tick - start, period)
            cell += f"{letter}{batch}" if batch >= 0 and phase == 0 else ""
        return cell


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Rows of cells as lines: the first ``left`` columns are aligned to the left, the others to the right."""
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if i < left else cell.rjust(width) for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
