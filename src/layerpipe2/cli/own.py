"""A training of one's own, by the name of the function that makes it."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction, signature
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layerpipe2.cli.options import check_together
from layerpipe2.errors import UserError, install_command, look_up, shown

if TYPE_CHECKING:
    from torch import nn

    from layerpipe2.engine.module import PipelinedModule
    from layerpipe2.engine.step import Loss

_RETURN = "return three: a network or a list of its stages, data, loss; or two: a PipelinedModule, data"
_DATA = "return a loader of training batches, or a tuple of it and one of validation batches"


class Own(NamedTuple):
    """What the function returned.

    Attributes:
        model: a network, a list of stages, or a module with all settings of its training.
        train: loader of training batches.
        validation: loader of validation batches, if there is one.
        loss: of a network or of stages: ``loss(outputs, targets)`` -> scalar.
    """

    model: PipelinedModule | nn.Module | Sequence[nn.Module]
    train: Iterable[Any]
    validation: Iterable[Any] | None
    loss: Loss | None

    @property
    def pipeline(self) -> PipelinedModule | None:
        """The module, if it has all settings."""
        from layerpipe2.engine.module import PipelinedModule

        return self.model if isinstance(self.model, PipelinedModule) else None


def check(options: argparse.Namespace) -> None:
    """Refuse what is wrong about the options of a command that has nothing but a training of one's own.

    Raises:
        UserError: saying so, without importing torch.
    """
    if options.module is None:
        study = f"the study's networks need {install_command('lab')}"
        raise UserError(f"no training is named; give --module package.module:function; {study}")
    check_name(options.module)
    check_together(options)


def check_name(name: str) -> None:
    """Refuse what is no ``package.module:function``, or a module that is neither in the working folder nor installed.

    Raises:
        UserError: saying so, without importing the module.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise UserError(f"--module is {shown(name)}; give a module and its function, as in package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for place in accumulate(name.partition(":")[0].split("."), "{}.{}".format):
        try:
            missing = find_spec(place) is None
        except (ModuleNotFoundError, ValueError):  # its parent is a module and no package
            missing = True
        if missing:
            raise UserError(f"--module is {shown(name)}, and there is no module {place}, here or installed")


def source_hash(name: str | None) -> str:
    """Return a hash of the file that a function is in, which tells a training from a later one; empty without a name.

    Raises:
        UserError: as :func:`check_name`.
    """
    if name is None:
        return ""
    check_name(name)
    found = find_spec(name.partition(":")[0])
    source = b"" if found is None or found.origin is None else Path(found.origin).read_bytes()
    return hashlib.sha256(source).hexdigest()[:12]


def own_training(name: str) -> Own:
    """Return what the function ``package.module:function`` returns; the module may lie in the working folder.

    Raises:
        UserError: if there is no such module or function, or it returns something else.
    """
    check_name(name)
    place, _, function = name.partition(":")
    functions = {key: value for key, value in vars(import_module(place)).items() if isfunction(value)}
    make = look_up(functions, function, f"function of {place}")
    needed = [one.name for one in signature(make).parameters.values() if one.default is one.empty]
    if needed:
        raise UserError(f"{name} takes the argument {needed[0]}; give it a default, since nobody says it")
    made = make()
    from torch import nn

    from layerpipe2.engine.hparams import loss_from
    from layerpipe2.engine.module import PipelinedModule

    match made:
        case (PipelinedModule() as model, data):
            return Own(model, *_loaders(name, data), None)
        case (nn.Module() | [nn.Module(), *_] as model, data, loss) if isinstance(loss, str) or callable(loss):
            if not isinstance(model, PipelinedModule):
                return Own(model, *_loaders(name, data), loss_from(loss))
    raise UserError(f"{name} returns {shown(made)}; {_RETURN}")


def refuse_settings(options: argparse.Namespace, names: Iterable[str]) -> None:
    """Refuse options that say what a module has already.

    Raises:
        UserError: on the first of ``names`` that is given.
    """
    for name in sorted(names):
        if getattr(options, name, None) is not None:
            what = f"{options.module} returns a PipelinedModule, which has its own"
            raise UserError(f"--{name.replace('_', '-')} is for a network, and {what}; leave it out")


def own_pipeline(name: str) -> tuple[PipelinedModule, Iterable[Any]]:
    """Return the module with all settings of its training that the function returns, and its training batches.

    Raises:
        UserError: as :func:`own_training`, and if it returns a network: the settings of a run make a training of it.
    """
    own = own_training(name)
    if own.pipeline is not None:
        return own.pipeline, own.train
    raise UserError(
        f"{name} returns a network, whose optimizer and strategy options say that need {install_command('lab')}; "
        "or return two: a PipelinedModule, data"
    )


def _loaders(name: str, data: Any) -> tuple[Iterable[Any], Iterable[Any] | None]:
    from torch import Tensor

    train, validation = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    loaders = [train] if validation is None else [train, validation]
    if not all(isinstance(loader, Iterable) and not isinstance(loader, Tensor) for loader in loaders):
        raise UserError(f"the data that {name} returns is {shown(data)}; {_DATA}")
    return train, validation
