"""The forward pass of stages whose backward pass uses other weights: what simulation and real processes share.

Both run a stage with tensors that :class:`layerpipe2.engine.saved_weights.SavedWeights` exchanges, and let
:class:`layerpipe2.engine.audit.Audit` look at the first pass of every epoch. They differ in when a stage runs (all in a
row, or each in its process) and in which weights it then reads (those of an earlier update, or the latest).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from layerpipe2.engine.audit import Audit
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.engine.saved_weights import Region, SavedWeights
from layerpipe2.engine.side_channels import SideChannels
from layerpipe2.errors import UserError

Observer = Callable[[Tensor], None]


class AuditedForward:
    """Forward passes with exchanged weights; the first ones, and the next after :meth:`audit_next`, are audited.

    The second one finds views of weights that the first has kept.

    Args:
        regions: the weights whose saved views come back as recalled ones.
        unexchanged: weights that an audit must find unchanged (exact stashing).
        moving: memory that may change between forward and backward pass; see :class:`SavedWeights`.
        channels: what belongs to which stage, where that matters.
        exact: whether recalled weights are those of the forward pass.
        first: passes that are audited at the beginning.

    Attributes:
        watches_loss: whether :meth:`loss` will be audited.
    """

    def __init__(
        self,
        regions: list[Region],
        unexchanged: Sequence[Region] = (),
        moving: Iterable[int] = (),
        channels: SideChannels | None = None,
        *,
        exact: bool = False,
        first: int = 2,
    ) -> None:
        self._regions, self._unexchanged, self._channels, self._exact = regions, unexchanged, channels, exact
        self._saved = SavedWeights(regions, moving)
        self.watches_loss, self._left = False, first

    def audit_next(self) -> None:
        """Check the next forward pass again: a network may take another way by then."""
        self._left = max(1, self._left)

    @property
    def audits(self) -> bool:
        """Whether the next pass will be audited."""
        return bool(self._left and (self._regions or self._unexchanged or self._channels is not None))

    @contextmanager
    def running(
        self,
        x: Tensor,
        finish: Callable[[Audit], None],
        observe: Observer | None = None,
        *,
        with_loss: bool = False,
        exchanges: bool = True,
    ) -> Iterator[Audit | None]:
        """Within: the forward pass of a mini-batch.

        Args:
            x: its input.
            finish: called after an audited pass, to look at what it has made.
            observe: is shown every tensor that autograd saves and that is no exchanged weight.
            with_loss: whether :meth:`loss` will follow.
            exchanges: whether views of weights are exchanged, if the pass isn't audited; else they change in place.

        Yields:
            The audit, which must be told of every stage; ``None`` in passes that aren't audited.

        Raises:
            UserError: audited, if recalled weights could not reach a backward pass, or a stage reads what comes from
                another one other than by its input.
        """
        audit = None
        if self.audits:
            audit = Audit(self._regions, x, self._unexchanged, self._channels, exact=self._exact)
            if self._channels is not None:
                self._channels.begin()
        observers = [] if observe is None else [observe]
        if audit is not None:
            observers.append(audit.check_saved)
        with ExitStack() as contexts:
            if observers or (self._regions and exchanges):
                contexts.enter_context(self._saved.hooks(observers))
            if audit is not None:
                contexts.enter_context(audit)
            yield audit
        self.watches_loss = False
        if audit is not None:
            finish(audit)
            self._left -= 1
            if self._channels is not None:
                self.watches_loss = with_loss
                self._channels.end(with_loss)

    def loss(self, compute: Callable[[], Tensor], *targets: Tensor) -> Tensor:
        """What ``compute`` makes of the outputs of the last pass; audited if that was.

        Raises:
            UserError: audited, if it reads what comes from another stage than the last one, and isn't in ``targets``.
        """
        if not self.watches_loss:
            return compute()
        assert self._channels is not None, "it watches"
        self.watches_loss = False
        value: Tensor = self._channels.watch_loss(compute, targets)
        return value


def has_recurrent_layer(stage: nn.Module) -> bool:
    """Whether the stage's weights can be exchanged on a GPU only without cuDNN; see :func:`stage_context`."""
    return any(isinstance(module, nn.RNNBase) for module in stage.modules())


def stage_context(stream: RandomStream | None, *, without_cudnn: bool) -> AbstractContextManager[Any]:
    """Within: one stage runs forward, with random numbers of its own if it has a ``stream``.

    cuDNN's recurrent backward pass reads a packed copy of the weights, which can't be exchanged: ``without_cudnn``.
    """
    random_numbers = nullcontext() if stream is None else stream.active()
    if not without_cudnn:
        return random_numbers
    contexts = ExitStack()
    contexts.enter_context(torch.backends.cudnn.flags(enabled=False))
    contexts.enter_context(random_numbers)
    return contexts


def clip_gradients(stage: nn.Module, largest_norm: float | None) -> None:
    """Scale the gradients of one stage down to ``largest_norm``; ``None`` leaves them.

    In a pipeline the stages never have the gradients of one mini-batch at one time: no norm is over all of them.

    Raises:
        UserError: if one is sparse, of which torch knows no norm.
    """
    if largest_norm is None:
        return
    try:
        nn.utils.clip_grad_norm_(stage.parameters(), largest_norm)
    except NotImplementedError:
        if not any(p.grad is not None and p.grad.layout is not torch.strided for p in stage.parameters()):
            raise
        raise UserError(
            f"gradient_clip_norm={largest_norm} can't clip sparse gradients; leave it out, or give the Embedding "
            "sparse=False"
        ) from None
