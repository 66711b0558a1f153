"""A training of one's own, by the name of the function that makes it."""

import os
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from inspect import isfunction
from typing import Any

from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import UserError, install_command, look_up, shown


def own_training(name: str | None) -> tuple[PipelinedModule, Iterable[Any]]:
    """Return what the function ``package.module:function`` returns; the module may lie in the working folder.

    Raises:
        UserError: if there is no such module or function, or it returns something else.
    """
    if name is None:
        study = f"the study's networks need {install_command('lab')}"
        raise UserError(f"no training is named; give --module package.module:function; {study}")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise UserError(f"--module is {shown(name)}; give a module and its function, as in package.module:function")
    place, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"--module is {shown(name)}, and there is no module {error.name}, here or installed") from None
    functions = {key: value for key, value in vars(module).items() if isfunction(value)}
    made = look_up(functions, function, f"function of {place}")()
    match made:
        case (PipelinedModule() as pipeline, Iterable() as loader):
            return pipeline, loader
    raise UserError(
        f"{name} returns {shown(made)}; return two: a PipelinedModule, and the loader of its training batches"
    )
