"""Surrogate gradients: what stands for the derivative of a step function, which is zero or infinite.

All are 1 at the threshold and fall with the distance ``u`` of the membrane from it, the faster the steeper their slope
``k`` is: fast sigmoid (Zenke and Ganguli 2018, arXiv 1705.11146), arctan (Fang et al. 2021, arXiv 2007.05785), triangle
(Esser et al. 2016, arXiv 1603.08270).
"""

from collections.abc import Callable

from torch import Tensor

Surrogate = Callable[[Tensor, float], Tensor]


def fast_sigmoid(u: Tensor, slope: float) -> Tensor:
    """1 / (1 + k |u|)², the derivative of u / (1 + k |u|)."""
    return u.abs().mul_(slope).add_(1).square_().reciprocal_()


def arctan(u: Tensor, slope: float) -> Tensor:
    """1 / (1 + (k u)²), the derivative of the arctan of k u, divided by k."""
    return (u * slope).square_().add_(1).reciprocal_()


def triangle(u: Tensor, slope: float) -> Tensor:
    """max(0, 1 - k |u|), which is zero from a distance of 1 / k on."""
    return u.abs().mul_(-slope).add_(1).clamp_(min=0)


SURROGATES: dict[str, Surrogate] = {"fast-sigmoid": fast_sigmoid, "arctan": arctan, "triangle": triangle}
"""Name -> (distance from the threshold, any shape; slope) -> derivative, a new tensor of that shape."""
