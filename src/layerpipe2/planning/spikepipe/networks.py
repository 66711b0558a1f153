"""Spiking networks as shapes, and what their training tasks cost on a systolic array.

A layer's tasks for b samples and s time steps are the three products of ``layerpipe2.planning.work``, whose rows are
all (sample, time step, output pixel): m = b s (output pixels). Unnikrishnan and Parhi (2020, arXiv 2002.05529) compute
the activation gradient with stationary weights and the weight gradient with stationary outputs on one configurable
array; the abstract gives no cycle counts. **Our derivation**, for R x C cells (the forms of SCALE-Sim as well):

*Weight stationary* (forward, activation gradient): the array holds R x C of the (S_r x S_c) weights. Loading takes R
cycles, one row per cycle. Row i of the m rows enters cell (r, c) at cycle i + r + c (skewed by one cycle per cell), so
that the last result leaves cell (R - 1, C - 1) after m + R + C - 2 cycles. Each of ceil(S_r / R) ceil(S_c / C) folds
takes m + 2 R + C - 2.

*Output stationary* (weight gradient): cell (r, c) keeps one of the (k x n) sums, to which m products are added one
after the other. The last operand reaches the last cell after m + R + C - 2 cycles; sums that are read out while the
next fold enters cost no more. Folds: ceil(k / R) ceil(n / C).

So a task of s time steps at once streams s times as many rows through weights that it loads once: **a task per time
step is finer, but T of them take longer than one of T steps**, by (T - 1) (2 R + C - 2) cycles per fold (output
stationary: by (T - 1) (R + C - 2)). The interleaving of the two gradients in 2002.05529, which saves memory accesses
and cycles, is not modelled: the abstract does not say how. A spike could save its multiplication, but no cycle: the
array is dense. Neurons (filter, threshold, reset, and the filter backwards in time) are elementwise and cost no time
here, nor do pooling and the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from layerpipe2.errors import UserError, integer, look_up
from layerpipe2.planning.devices import DEVICE, SystolicArray
from layerpipe2.planning.work import Gemm

KINDS = ("F", "B", "W")
"""Forward, activation gradient, weight gradient."""


@dataclass(frozen=True)
class Layer:
    """A convolution (or, of one pixel, a fully connected layer) with its neurons: channels, window, output pixels."""

    inputs: int
    outputs: int
    window: int = 1
    pixels: int = 1

    def gemm(self, kind: str, rows: int) -> Gemm:
        """Return the product of a task, ``rows`` = samples x time steps x output pixels."""
        inner = self.inputs * self.window
        return {
            "F": Gemm(rows, self.outputs, inner),
            "B": Gemm(rows, inner, self.outputs),
            "W": Gemm(inner, self.outputs, rows),
        }[kind]


@dataclass(frozen=True)
class Unit:
    """What is never cut: a layer, or a residual block. ``inputs`` and ``outputs`` are numbers per sample and step."""

    layers: tuple[Layer, ...]
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(layer.inputs * layer.outputs * layer.window for layer in self.layers)

    @property
    def neurons(self) -> int:
        """Number of membranes that are kept per sample and time step."""
        return sum(layer.outputs * layer.pixels for layer in self.layers)


def dense(inputs: int, outputs: int) -> Unit:
    """Return a fully connected layer."""
    return Unit((Layer(inputs, outputs),), inputs, outputs)


def conv(inputs: int, outputs: int, side: int, pool: int = 1) -> Unit:
    """Return a 3 x 3 convolution to ``side`` x ``side`` pixels, its spikes pooled over ``pool`` x ``pool``."""
    layer = Layer(inputs, outputs, 9, side * side)
    return Unit((layer,), inputs * side * side, outputs * (side // pool) ** 2)


def block(inputs: int, outputs: int, before: int, side: int) -> Unit:
    """Return two 3 x 3 convolutions to ``side`` x ``side`` pixels, and a 1 x 1 one where the channels change."""
    layers = (Layer(inputs, outputs, 9, side * side), Layer(outputs, outputs, 9, side * side))
    shortcut = () if inputs == outputs else (Layer(inputs, outputs, 1, side * side),)
    return Unit(layers + shortcut, inputs * before**2, outputs * side**2)


SPIKING: Mapping[str, tuple[Unit, ...]] = {
    "mlp": (dense(784, 1024), *(dense(1024, 1024),) * 7, dense(1024, 10)),
    "vgg": (
        conv(1, 64, 28),
        conv(64, 64, 28, 2),
        conv(64, 128, 14),
        conv(128, 128, 14, 2),
        conv(128, 256, 7),
        conv(256, 256, 7),
        dense(256 * 49, 512),
        dense(512, 10),
    ),
    "residual": (
        conv(1, 64, 28),
        *(block(64, 64, 28, 28),) * 2,
        block(64, 128, 28, 14),
        block(128, 128, 14, 14),
        block(128, 256, 14, 7),
        block(256, 256, 7, 7),
        block(256, 512, 7, 4),
        block(512, 512, 4, 4),
        Unit((Layer(512, 10),), 512 * 16, 10),  # pools its input
    ),
}
"""Declared here for 1 x 28 x 28 inputs and 10 classes (Fashion-MNIST); SpikePipe's networks are not known to us."""
LABELS = {"mlp": "spiking MLP 8 × 1024", "vgg": "spiking VGG", "residual": "spiking residual network"}


@dataclass(frozen=True)
class Setting:
    """What is trained on which processors.

    Attributes:
        array: cells, clock and links of every processor.
        batch_size: samples per mini-batch.
        time_steps: T, steps of the neurons per sample.
        bits: of a gradient, a membrane and a weight; a spike has 1.
    """

    array: SystolicArray = DEVICE
    batch_size: int = 32
    time_steps: int = 8
    bits: int = 16

    def __post_init__(self) -> None:
        integer(self.batch_size, "mini-batch size", 1)
        integer(self.time_steps, "number of time steps", 1)
        if self.bits not in (16, 32):
            raise UserError(f"gradients have {self.bits!r} bits; give 16 or 32")

    def seconds(self, kind: str, unit: Unit, steps: int) -> float:
        """Return the time in s of a task for one mini-batch and ``steps`` time steps."""
        array = replace(self.array, dataflow="os" if kind == "W" else "ws")
        rows = self.batch_size * steps
        return sum(array.cycles(layer.gemm(kind, rows * layer.pixels)) for layer in unit.layers) / array.clock

    def message(self, numbers: int, steps: int = 1, bits: int | None = None) -> float:
        """Return the bytes of so many numbers per sample and time step."""
        return self.batch_size * steps * numbers * (self.bits if bits is None else bits) / 8


def spiking(network: str) -> tuple[Unit, ...]:
    """Return a network of :data:`SPIKING`.

    Raises:
        UserError: on an unknown name.
    """
    return look_up(SPIKING, network, "spiking network")
