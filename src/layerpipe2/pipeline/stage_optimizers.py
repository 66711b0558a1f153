"""An optimizer per stage, as one over the whole network would be: groups are made once over all, then cut by stage.

A process has the parameters of its own stages only. For those of the others the optimizer's maker gets stand-ins, which
have shape, type and ``requires_grad`` but no values (torch's meta device); afterwards they are taken out again. A group
stays where it is, if need be without a parameter, so that schedulers with one number per group fit every stage.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.reachable import reachable
from layerpipe2.errors import UserError, shown
from layerpipe2.pipeline.store import first_line

_SCALES = (1.0, 1e3, 1e-3)  # of gradients that are tried


class Everywhere:
    """The parameters of all stages, as this process has them once it has dropped other processes' stages.

    Args:
        stages: the whole network.
    """

    def __init__(self, stages: nn.ModuleList) -> None:
        found = [list(stage.parameters()) for stage in stages]
        self._known = [(k, ref(p)) for k, stage in enumerate(found) for p in stage]  # a maker, a stage may hold one
        self._stand_ins = [
            [nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in stage]
            for stage in found
        ]

    def parameters(self, mine: Mapping[int, nn.Module]) -> list[list[nn.Parameter]]:
        """Per stage: those of the stages ``mine`` (by number), and stand-ins for the others."""
        return [list(mine[k].parameters()) if k in mine else those for k, those in enumerate(self._stand_ins)]

    def alive(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Number of the stage and parameter, of all stages, as far as somebody still holds them."""
        return ((k, one) for k, known in self._known if (one := known()) is not None)

    def others(self, own: Sequence[nn.Parameter], given: Sequence[nn.Parameter]) -> set[int]:
        """Ids of all parameters, also of those ``given`` to a maker, that aren't a stage's ``own``."""
        there = [p for _, p in self.alive()]
        return {id(p) for p in (*there, *given)} - {id(p) for p in own}


class StageOptimizers:
    """Makes them.

    Args:
        module: knows the makers of optimizer and scheduler.
        everywhere: the parameters of all stages.
        mine: number -> stage, of this process.
    """

    def __init__(self, module: StagedModule, everywhere: Everywhere, mine: Mapping[int, nn.Module]) -> None:
        self.module, self.everywhere, self.mine = module, everywhere, mine
        self._parameters = everywhere.parameters(mine)
        self._made: list[Optimizer] = []

    def make(self, trained: Sequence[int]) -> Any:
        """One per stage of ``trained`` (numbers), as Lightning's ``configure_optimizers`` returns them.

        A process without such a stage gets one that moves nothing: by its steps the ``Trainer`` counts the updates.

        Raises:
            UserError: if the maker looks at values or makes no new optimizer, or if a stage's parameters would move
                otherwise without the others.
        """
        module = self.module
        if len(self._parameters) > 1:
            self._check_independent(trained)
        own = [self._parameters[k] for k in trained] or [[]]
        optimizers = [self._cut(self._parameters, parameters) for parameters in own]
        if module.make_scheduler is None:
            return optimizers
        return optimizers, [{"scheduler": module.scheduler_over(optimizer)} for optimizer in optimizers]

    def _cut(self, parameters: Sequence[Sequence[nn.Parameter]], own: Sequence[nn.Parameter]) -> Optimizer:
        """An optimizer over all ``parameters`` that keeps nothing but ``own`` of them."""
        given = [p for stage in parameters for p in stage]
        optimizer, others = self._over(given), self.everywhere.others(own, given)
        # The maker may give the same dictionaries again; an optimizer within another has the same list.
        optimizer.param_groups[:] = [
            group | {"params": [p for p in group["params"] if id(p) not in others]} for group in optimizer.param_groups
        ]
        for p in [p for p in optimizer.state if id(p) in others]:
            del optimizer.state[p]
        return optimizer

    def _over(self, given: list[nn.Parameter]) -> Optimizer:
        """A new one over ``given``."""
        try:
            optimizer = self.module.optimizer_over(given)
        except (RuntimeError, TypeError, LookupError) as error:
            if not any(p.is_meta for p in given):
                raise
            raise UserError(
                "optimizer can't be made without the values of other processes' parameters: "
                f"{shown(first_line(error))}; let it look at names and shapes only, or train in one process"
            ) from error
        if any(optimizer is earlier for earlier in self._made):
            raise UserError(
                "optimizer was given as a function that returns the same optimizer again, but each stage needs one of "
                "its own; let it make a new one of the parameters that it is given"
            )
        self._made.append(optimizer)
        return optimizer

    def _check_independent(self, trained: Sequence[int]) -> None:
        """Try on small parameters whether the optimizer moves each stage as it does among all of them.

        Raises:
            UserError: if not: its state or its norms reach over parameters.
        """
        device = next((p.device for stage in self._parameters for p in stage if not p.is_meta), torch.device("cpu"))
        with _nothing_changed(self.mine), torch.random.fork_rng([device] if device.type == "cuda" else []):
            try:
                self._check_tried(self._over([p for stage in _small(self._parameters, device) for p in stage]))
                whole = self._moved(_small(self._parameters, device))
                alone = {k: self._moved(_small(self._parameters, device), k)[k] for k in trained}
            except UserError:
                raise
            except Exception:  # sizes that it doesn't take: then nothing is known
                return
        for k, moved in alone.items():
            if not all(map(_same, moved, whole[k])):
                raise UserError(
                    f"the optimizer moves the parameters of stage {k} otherwise where it has those of all stages, so "
                    "that no process can do its part (a norm, a state or random numbers for all of them?); take one "
                    "that treats each parameter by itself, or train in one process"
                )

    def _check_tried(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that small parameters say nothing of: it, or what it calls, has the network's own.

        torch's optimizers treat each parameter by itself, wherever they have it from.
        """
        if any(_copies_in_order(one) for one in (optimizer, *vars(optimizer).values())):
            raise UserError(
                f"the optimizer ({type(optimizer).__name__}) keeps a list of tensors, one for each of its parameters "
                "(slow weights of a Lookahead?), of which no process can find its part; let it keep them in "
                "state[parameter], or train in one process"
            )
        called = [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
        own = [] if type(optimizer).__module__.startswith("torch.optim.") else [vars(optimizer), type(optimizer).step]
        there = {id(p) for _, p in self.everywhere.alive()}
        roots = [called, own, [_global_names(one) for one in (*called, *own[1:])]]
        if any(id(one) in there for one in reachable(roots)):
            raise UserError(
                f"the optimizer ({type(optimizer).__name__}) or a hook of its steps looks at parameters of the network "
                "other than those that its maker was given, so that no process can do its part; let it use those "
                "given, or train in one process"
            )

    def _moved(self, parameters: list[list[nn.Parameter]], only: int | None = None) -> list[list[nn.Parameter]]:
        """What three updates make of ``parameters``: of those of stage ``only``, cut from the others', or of all."""
        moving = [p for k, stage in enumerate(parameters) if only in (None, k) for p in stage]
        optimizer = self._cut(parameters, moving)
        generator = torch.Generator().manual_seed(1)
        for scale in _SCALES:
            for p in (p for stage in parameters for p in stage):
                gradient = scale * torch.randn(p.shape, generator=generator)
                p.grad = gradient.to(p) if p.requires_grad else None
            optimizer.step()
        return parameters


def _small(parameters: Sequence[Sequence[nn.Parameter]], device: torch.device) -> list[list[nn.Parameter]]:
    """Make parameters like ``parameters``, at most 2 long in every dimension, always with the same values."""
    generator = torch.Generator().manual_seed(0)

    def small(p: nn.Parameter) -> nn.Parameter:
        values = torch.randn([min(size, 2) for size in p.shape], generator=generator)
        return nn.Parameter(values.to(device, p.dtype), requires_grad=p.requires_grad)

    return [list(map(small, stage)) for stage in parameters]


def _copies_in_order(one: Any) -> bool:
    """Whether an optimizer has a list of tensors of the shapes of its parameters, all or a group's, beside these."""
    if not isinstance(one, Optimizer):
        return False
    groups = [list(group["params"]) for group in one.param_groups]
    everyone = [p for group in groups for p in group]
    shapes, own = [[p.shape for p in group] for group in (*groups, everyone) if group], set(map(id, everyone))
    for value in (value for held in (vars(one), *one.param_groups) for value in held.values()):
        kept = list(reachable(value)) if isinstance(value, list | tuple) else []
        if [t.shape for t in kept] in shapes and own.isdisjoint(map(id, kept)):
            return True
    return False


def _global_names(called: Any) -> list[Any]:
    """What a function calls by global names."""
    function = inspect.unwrap(getattr(called, "__func__", called))
    if not inspect.isfunction(function):
        return []
    return [function.__globals__.get(name) for name in function.__code__.co_names]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@contextmanager
def _nothing_changed(stages: Mapping[int, nn.Module]) -> Iterator[None]:
    """Within: what hooks of an optimizer that is tried do to the stages is undone."""
    tensors = [t for stage in stages.values() for t in (*stage.parameters(), *stage.buffers())]
    kept = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, kept, strict=True):
            if not torch.equal(tensor, old):
                tensor.data.copy_(old)
