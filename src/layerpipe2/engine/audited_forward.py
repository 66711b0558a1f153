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

Observer = Callable[[Tensor], None]


class AuditedForward:
    """Forward passes with exchanged weights; the first two, and the next after :meth:`audit_next`, are audited.

    The second one finds views of weights that the first has kept.

    Args:
        regions: the weights whose saved views come back as recalled ones.
        unexchanged: weights that an audit must find unchanged (exact stashing).
        moving: memory that may change between forward and backward pass; see :class:`SavedWeights`.
    """

    def __init__(self, regions: list[Region], unexchanged: Sequence[Region] = (), moving: Iterable[int] = ()) -> None:
        self._regions, self._unexchanged = regions, unexchanged
        self._saved = SavedWeights(regions, moving)
        self._audited = not regions and not unexchanged
        self._began = False

    def audit_next(self) -> None:
        """Check the next forward pass again: a network may take another way by then."""
        self._audited = not self._regions and not self._unexchanged

    @contextmanager
    def running(self, x: Tensor, finish: Callable[[Audit], None], observe: Observer | None = None) -> Iterator[None]:
        """Within: the forward pass of a mini-batch.

        Args:
            x: its input.
            finish: called after an audited pass, to look at what it has made.
            observe: is shown every tensor that autograd saves and that is no exchanged weight.

        Raises:
            UserError: audited, if recalled weights could not reach a backward pass.
        """
        audit = None if self._audited else Audit(self._regions, x, self._unexchanged)
        observers = [] if observe is None else [observe]
        if audit is not None:
            observers.append(audit.check_saved)
        with ExitStack() as contexts:
            if self._regions or observers:
                contexts.enter_context(self._saved.hooks(observers))
            if audit is not None:
                contexts.enter_context(audit)
            yield
        if audit is not None:
            finish(audit)
            self._audited, self._began = self._began, True


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
    """
    if largest_norm is not None:
        nn.utils.clip_grad_norm_(stage.parameters(), largest_norm)
