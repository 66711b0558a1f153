"""Basis rotation (arXiv 2602.03515): Adam in the eigenbasis of the gradients' second moments, against delays.

A late gradient does most harm along directions in which the curvature is large. Adam takes a step of its own size in
each coordinate; where the coordinates aren't the Hessian's eigenvectors, an error along a steep one is spread over all
of them. For a matrix with gradient ``G`` (m, n) let ``U`` and ``V`` be about the eigenvectors of ``L = E[G G']`` and
``R = E[G' G]``. Adam's second moment is taken of the rotated gradient, and its step is rotated back::

    M <- b1 M + (1 - b1) G         Q <- b2 Q + (1 - b2) (U' G V)^2
    W <- W - lr k W - lr U [Mhat / (sqrt(Qhat) + eps)] V',       Mhat = U' M V / (1 - b1^t), Qhat = Q / (1 - b2^t)

First the eigenvectors are computed; then every tenth update renews them by one step of the power method and a QR
decomposition, ``U <- qr(L U)``, columns in the order of their eigenvalues: ``Q`` is permuted with them. It touches the
delay alone, and needs no stash by its authors' account. It keeps, beside Adam's moments, two factors and two bases:
``2 (m^2 + n^2) / (m n)`` copies, 4 of a square matrix. This is two-sided, from second moments, as the authors' public
code has it by default; that code multiplies ``eps`` by ``sqrt(1 - b2^t)``, which the equations above don't.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from experiments.field.joined import Joined, by_shape
from layerpipe2 import UserError

Group = dict[str, Any]
State = dict[str, Tensor]


class BasisRotation(Optimizer):
    """The update of matrices.

    Args:
        parameters: of two dimensions each.
        lr: the rate.
        betas: ``b1`` and ``b2``; the latter is also the decay of ``L`` and ``R``.
        eps: the term beside the root.
        weight_decay: ``k``.
        every: updates from one renewal of the bases to the next.

    Raises:
        UserError: if a parameter has another number of dimensions.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        every: int = 10,
    ) -> None:
        how = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "every": every}
        super().__init__(parameters, how)
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise UserError("BasisRotation rotates matrices, and a parameter is none; give the others to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if not self.state[p]:
                    self.state[p].update(_begun(p))
                _update(p, p.grad, self.state[p], group)
        return loss


def _begun(p: Tensor) -> State:
    made = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
    for side, size in zip(("left", "right"), p.shape, strict=True):
        made |= {name: p.new_zeros(size, size) for name in (f"{side}_factor", f"{side}_basis")}
    return {"step": torch.zeros((), dtype=torch.int64), **made}


def _update(p: Tensor, gradient: Tensor, state: State, group: Group) -> None:
    b1, b2 = group["betas"]
    state["step"] += 1
    t = int(state["step"])
    state["left_factor"].lerp_(gradient @ gradient.T, 1 - b2)
    state["right_factor"].lerp_(gradient.T @ gradient, 1 - b2)
    if t == 1 or t % group["every"] == 0:
        for dim, side in enumerate(("left", "right")):
            _renew(state, side, dim, begins=t == 1)
    u, v = state["left_basis"], state["right_basis"]
    state["exp_avg"].lerp_(gradient, 1 - b1)
    state["exp_avg_sq"].lerp_((u.T @ gradient @ v) ** 2, 1 - b2)
    mean = u.T @ state["exp_avg"] @ v / (1 - b1**t)
    step = mean / ((state["exp_avg_sq"] / (1 - b2**t)).sqrt() + group["eps"])
    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * (u @ step @ v.T))


def _renew(state: State, side: str, dim: int, *, begins: bool) -> None:
    """Eigenvectors of a factor, largest first; or one step of the power method towards them."""
    factor, basis = state[f"{side}_factor"], state[f"{side}_basis"]
    if begins:
        basis.copy_(torch.linalg.eigh(factor).eigenvectors.flip(1))
        return
    order = (basis * (factor @ basis)).sum(0).argsort(descending=True)  # the diagonal of U' L U
    state["exp_avg_sq"].copy_(state["exp_avg_sq"].index_select(dim, order))
    basis.copy_(torch.linalg.qr(factor @ basis[:, order]).Q)


def rotated(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, every: int = 10) -> Joined:
    """Basis rotation for matrices, AdamW for the rest."""
    return by_shape(
        parameters,
        lambda own: BasisRotation(own, lr, weight_decay=weight_decay, every=every),  # type: ignore[arg-type]
        lambda own: AdamW(own, lr=lr, weight_decay=weight_decay),
    )
