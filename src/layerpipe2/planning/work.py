"""What a stage has to compute, keep and send for one mini-batch: floating-point operations, matrix products, bytes.

A layer's training step is three products of the same size. With the im2col form of a convolution (a linear layer is
the one-pixel case) of m = batch x output pixels, n = output channels, k = input channels x window::

    forward              Y  (m, n) = X  (m, k) . W  (k, n)
    activation gradient  dX (m, k) = dY (m, n) . W' (n, k)
    weight gradient      dW (k, n) = X' (k, m) . dY (m, n)

so that each costs 2 m n k operations, but its shape, and with it its time on an array of fixed size, differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gemm:
    """``count`` products (rows, inner) x (inner, columns); ``count`` > 1 for grouped convolutions."""

    rows: int
    columns: int
    inner: int
    count: int = 1

    @property
    def flops(self) -> int:
        """Operations, two per multiplication with its addition."""
        return 2 * self.rows * self.columns * self.inner * self.count

    def halves(self) -> tuple[Gemm, Gemm]:
        """Cut the product in two along its columns (input channels, for an activation gradient)."""
        low = self.columns // 2
        return replace(self, columns=self.columns - low), replace(self, columns=low)


@dataclass(frozen=True)
class Work:
    """A task's computation for one mini-batch.

    Attributes:
        flops: operations of matrix products and convolutions; elementwise work is not counted.
        gemms: the matrix products behind ``flops``, as far as they come from Linear and Conv layers.
    """

    flops: float = 0.0
    gemms: tuple[Gemm, ...] = ()

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.gemms + other.gemms)

    def halves(self) -> tuple[Work, Work]:
        """Return two tasks that do this one together: the larger half first where it does not come out even."""
        if not self.gemms:
            return Work(self.flops / 2), Work(self.flops / 2)
        pairs = [gemm.halves() for gemm in self.gemms]
        first, second = (tuple(pair[i] for pair in pairs if pair[i].columns) for i in (0, 1))
        share = sum(gemm.flops for gemm in first) / max(sum(gemm.flops for gemm in self.gemms), 1)
        return Work(self.flops * share, first), Work(self.flops * (1 - share), second)


@dataclass(frozen=True)
class StageWork:
    """One stage and one mini-batch.

    Attributes:
        forward: work of the forward pass.
        activation: work of the gradient with respect to the stage's activations: its input and its inner layers'. The
            first stage's own input needs no gradient.
        weight: work of the gradient with respect to the stage's weights.
        parameter_bytes: trainable parameters.
        saved_bytes: what the forward pass keeps for the backward pass, beside parameters and buffers.
        input_bytes: activation that comes in; its gradient, which goes back, is as large.
        output_bytes: activation that goes out; its gradient, which comes in, is as large.
    """

    forward: Work
    activation: Work
    weight: Work
    parameter_bytes: int = 0
    saved_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0

    @property
    def total(self) -> Work:
        """Forward and backward work together."""
        return self.forward + self.activation + self.weight

    @property
    def single_layer(self) -> bool:
        """Whether the stage is one layer with weights, whose two gradients need nothing of inner layers."""
        return len(self.forward.gemms) <= 1
