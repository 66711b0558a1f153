"""Pipelined (delayed-gradient) training of neural networks: a reproduction of LayerPipe2.

>>> from layerpipe2 import Delays, PipelinedModule, make_strategy, partition
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerpipe2.pipeline.environment import SECRET

if TYPE_CHECKING:
    from layerpipe2.cutting import cut
    from layerpipe2.delays import Delays
    from layerpipe2.engine.module import PipelinedModule
    from layerpipe2.errors import UserError
    from layerpipe2.pipeline.strategy import PipelineStrategy
    from layerpipe2.stages import partition
    from layerpipe2.strategies import STRATEGIES, Strategy, chain, find_strategy, make_strategy

__all__ = [
    "STRATEGIES",
    "Delays",
    "PipelineStrategy",
    "PipelinedModule",
    "Strategy",
    "UserError",
    "chain",
    "cut",
    "find_strategy",
    "make_strategy",
    "partition",
]
__version__ = "0.2.0"

_HOMES = {
    "Delays": "delays",
    "PipelineStrategy": "pipeline.strategy",
    "PipelinedModule": "engine.module",
    "STRATEGIES": "strategies",
    "Strategy": "strategies",
    "UserError": "errors",
    "chain": "strategies",
    "cut": "cutting",
    "find_strategy": "strategies",
    "make_strategy": "strategies",
    "partition": "stages",
}

_RENAMED = {"make_history": "make_strategy", "WeightHistory": "Strategy"}
"""Name of version 0.1 -> the same today."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use: Lightning takes seconds, which scripts that only read records need not pay."""
    if name in _RENAMED:
        raise ImportError(f"layerpipe2.{name} is layerpipe2.{_RENAMED[name]} since version 0.2; change the name")
    if name not in _HOMES:
        raise AttributeError(f"module 'layerpipe2' has no attribute '{name}'")
    return getattr(import_module(f"layerpipe2.{_HOMES[name]}"), name)


def _end_in_one_line(*uncaught: Any) -> None:
    import_module("layerpipe2.pipeline.process_group").in_one_line(*uncaught)


if SECRET in os.environ and "RANK" in os.environ:  # `layerpipe2 launch` started this script, in several processes
    sys.excepthook = _end_in_one_line
