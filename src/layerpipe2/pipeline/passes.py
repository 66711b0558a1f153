"""One mini-batch's way through a stage, forward and back: in one piece, or with the backward pass in two tasks.

The two tasks are LayerPipe's step within a layer (arXiv 2108.06629): first the gradient of the stage's input, which the
neighbour upstream waits for, then those of the weights. The stage is cut into its layers, each with a graph of its own,
so that nothing is computed twice: a layer's input gradient and its weight gradient are the two halves of its backward
pass. Only what a module of one's own computes *after* its weights (a normalisation inside a block) is passed twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.audit import graph_of
from layerpipe2.engine.layout import trainable
from layerpipe2.engine.packing import pack, unpack
from layerpipe2.errors import UserError

HandOn = Callable[[Any], Tensor]


class StageInput:
    """Where the graph of a stage or layer begins, and where the gradient of its input ends up, as autograd made it.

    A leaf would give the gradient the strides of the input, so that the stage before might round differently than in
    one graph; and no operation may change a leaf in place, as a ``ReLU(inplace=True)`` at a stage's begin does.

    Attributes:
        leaf: the input, where the graph ends.
        gradient: of the input, after the backward pass.
    """

    def __init__(self, x: Tensor) -> None:
        self.leaf = x
        self.gradient: Tensor | None = None

    def enter(self) -> Tensor:
        """The input for the stage. Not kept here: graph and start would hold each other."""
        if not self.leaf.requires_grad:
            return self.leaf
        entered: Tensor = _Enter.apply(self.leaf, self)  # type: ignore[no-untyped-call]
        return entered


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: StageInput) -> Tensor:
        ctx.start = start
        return x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        ctx.start.gradient = gradient
        return None, None


class WholePass:
    """A mini-batch between its forward and its backward pass: one graph, both kinds of gradients at once.

    Args:
        stage: runs forward.
        x: its input (B, ...), or several tensors in one.
        hand_on: makes one tensor of what it returns.

    Attributes:
        x: as given.
        y: the stage's outputs (B, ...), or several tensors in one.
    """

    def __init__(self, stage: nn.Module, x: Tensor, hand_on: HandOn) -> None:
        self.x, self._start = x, StageInput(x)
        self.y = hand_on(stage(unpack(self._start.enter())))
        self._root = self.y
        self._share: Tensor | None = None

    def add_loss(self, loss: Callable[[Tensor], Tensor], parts: int) -> Tensor:
        """Apply ``loss`` to the outputs; the backward pass starts from its value (scalar), divided by ``parts``."""
        self._root = value = loss(self.y)
        self._share = torch.ones_like(value) / parts
        return value

    def roots(self) -> list[Tensor]:
        """Outputs of all graphs that the stage's layers made."""
        return [self.y]

    def check(self, stage: int, parameters: Sequence[nn.Parameter]) -> None:
        """One graph has all gradients."""

    def input_gradient(self, gradient: Tensor | None) -> Tensor | None:
        """From the gradient of the outputs (``None``: there is a loss) to that of the input; ``None`` without one."""
        start = gradient if self._share is None else self._share
        if self._root.requires_grad and start is not None:
            self._root.backward(start)  # type: ignore[no-untyped-call]
        return self._start.gradient

    def weight_gradients(self) -> None:
        """The rest of the backward pass: all parameters have their gradients after it."""


@dataclass
class _Piece:
    """One layer in flight: begin and output of its own graph, and the gradient of its output."""

    layer: nn.Module | None
    start: StageInput
    y: Tensor
    gradient: Tensor | None = None


class SplitPass:
    """The same with a graph per layer: the gradient of the input first, those of the weights when asked for."""

    def __init__(self, stage: nn.Module, x: Tensor, hand_on: HandOn) -> None:
        self.x, self._pieces = x, list[_Piece]()
        layers = list(layers_of(stage))
        for layer in layers:
            start = StageInput(x.detach().requires_grad_(x.requires_grad) if self._pieces else x)
            y = layer(unpack(start.enter()))
            x = hand_on(y) if layer is layers[-1] else pack(y)
            self._pieces.append(_Piece(layer, start, x))
        self.y = x

    def add_loss(self, loss: Callable[[Tensor], Tensor], parts: int) -> Tensor:
        """The loss is one more piece, without weights."""
        start = StageInput(self.y.detach().requires_grad_(self.y.requires_grad))
        value = loss(start.enter())
        self._pieces.append(_Piece(None, start, value, torch.ones_like(value) / parts))
        return value

    def roots(self) -> list[Tensor]:
        """The outputs of every layer."""
        return [piece.y for piece in self._pieces if piece.layer is not None]

    def check(self, stage: int, parameters: Sequence[nn.Parameter]) -> None:
        """Refuse a layer whose graph reaches others': their gradients would lose a part.

        Raises:
            UserError: naming the stage and the layer.
        """
        owner: dict[Any, _Piece] = {}
        for piece in self._pieces:
            own = set() if piece.layer is None else set(piece.layer.parameters())
            others = set(parameters) - own
            for node in graph_of(piece.y):
                leaf = node.name() == "torch::autograd::AccumulateGrad"
                if node.variable in others if leaf else owner.setdefault(node, piece) is not piece:
                    who = "the loss" if piece.layer is None else f"a {type(piece.layer).__name__} of stage {stage}"
                    raise UserError(
                        f"{who} reads what another layer has computed, or its weight, other than by its input; train "
                        "without split_backward, or put both layers into one module"
                    )

    def input_gradient(self, gradient: Tensor | None) -> Tensor | None:
        """From layer to layer, no gradient of a weight."""
        last = self._pieces[-1]
        passing = last.gradient if last.layer is None else gradient
        for piece in reversed(self._pieces):
            piece.gradient = passing
            if passing is not None and piece.y.requires_grad and piece.start.leaf.requires_grad:
                torch.autograd.grad(piece.y, piece.start.leaf, passing, retain_graph=True, allow_unused=True)
            passing = piece.start.gradient
        return passing

    def weight_gradients(self) -> None:
        """Layer by layer, the other half."""
        for piece in reversed(self._pieces):
            weights = [p for p in piece.layer.parameters() if trainable(p)] if piece.layer is not None else []
            if weights and piece.gradient is not None:
                torch.autograd.backward(piece.y, piece.gradient, inputs=weights)


Pass = WholePass | SplitPass


def layers_of(stage: nn.Module) -> Iterator[nn.Module]:
    """The layers that a stage runs one after the other: the insides of nested ``nn.Sequential``."""
    if type(stage) is nn.Sequential:
        for child in stage:
            yield from layers_of(child)
    else:
        yield stage
