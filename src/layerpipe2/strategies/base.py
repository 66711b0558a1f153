"""What a weight history is, and a strategy: its row in the table, with all that records, options and figures ask."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from layerpipe2.strategies.moments import Updates

State = dict[str, Tensor]
Consumes = Literal["updates", "gradients", "nothing"]
Family = Literal["sequential", "stash", "latest", "average", "pair", "window"]
Dash = tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class WeightHistory(ABC):
    """A method of recalling ``W(t - d)``. ``step`` is ``t``, an int64 tensor of shape (1,), counted from the last fill.

    Attributes:
        consumes: what :meth:`record` takes: the applied ``updates``, ``gradients`` (``lr * gradient``) or ``nothing``.
        name: the strategy's, if :func:`layerpipe2.strategies.registry.make_history` made it; else an empty text.
    """

    consumes: Consumes = "nothing"
    name: str = field(default="", init=False, repr=False, compare=False)

    @property
    def constants(self) -> tuple[str, ...]:
        """Entries of the state that never change: a checkpoint that differs in them is another method's."""
        return ()

    @property
    def exact(self) -> bool:
        """Whether the recalled weights are those of the forward pass by definition: nothing has to be replaced."""
        return False

    @property
    def keeps_weights(self) -> bool:
        """Whether :meth:`recall` looks at ``delayed``: a real pipeline must then keep the last ``d`` weights."""
        return self.exact

    def init(self, weights: Tensor, delay: int) -> State:
        """State of a stage with flat weights (N,) and ``delay`` > 0 updates, before its first update."""
        return {}

    @abstractmethod
    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """Weights (N,) for the backward pass. ``latest`` is ``W(t)``.

        ``delayed`` is ``W(t - d)`` from the delay line: only methods that keep weights may look at it.
        """

    def record(self, state: State, update: Tensor, step: Tensor) -> None:  # noqa: B027 - nothing to record by default
        """Take in update number ``step``, ``W(t) - W(t+1)``; changes ``state`` in place (CUDA graphs need that)."""

    @abstractmethod
    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """Copies of the stage's weights that hardware must hold beside the latest ones and the optimizer's state.

        ``momentum_buffer`` says whether that state tells the newest update: SGD's momentum and Adam's moments do, plain
        SGD and Nesterov's form, whose update adds the gradient, do not.
        """

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float] | None:
        """``(b, x, y)`` of ``Ŵ = W(t) + x A + y u_0`` in the steady state, if the method is of this form.

        ``A`` is the average of the older updates with decay ``b``, ``u_0`` the newest one
        (:mod:`layerpipe2.strategies.moments`). The theory of the reconstruction's error starts from them.
        """
        return None


@dataclass(frozen=True)
class Strategy:
    """What the backward pass uses for historical weights, by name.

    Attributes:
        name: as in options, records and tables.
        label: short name for readers, in legends and tables.
        description: one line of help.
        family: the kind of method. ``average`` and ``pair`` reconstruct the weights approximately.
        make: a new weight history.
        colour: ``#rrggbb``, of Okabe and Ito's palette or near it (safe for colour-blind readers).
        marker: matplotlib's letter.
        dash: offset and on-off lengths of the line, in line widths; no lengths: a solid line.
        order: place in legends and tables.
        aware: whether the weights of its average follow from the delay.
        raw: whether it averages lr x gradient, not the applied updates (names that end in ``-raw``).
        warm: whether epochs with exact weights came first (names that end in ``-warm``, of tables and figures: a run
            has the setting ``stash_epochs``).
    """

    name: str
    label: str
    description: str
    family: Family
    make: Callable[[], WeightHistory]
    colour: str
    marker: str
    dash: Dash
    order: float
    aware: bool = False
    raw: bool = False
    warm: bool = False

    @property
    def plain(self) -> str:
        """The name without ``-raw`` and ``-warm``."""
        return self.cold.removesuffix("-raw")

    @property
    def cold(self) -> str:
        """The name without ``-warm``."""
        return self.name.removesuffix("-warm")

    @property
    def exact(self) -> bool:
        """Whether it gives the backward pass the forward pass's own weights, up to rounding."""
        return self.family in ("sequential", "stash", "window")

    @property
    def filled(self) -> bool:
        """Whether its marker is filled; variants with ``-raw`` or ``-warm`` are hollow."""
        return not (self.raw or self.warm)
