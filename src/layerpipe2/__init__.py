"""Pipelined (delayed-gradient) training of neural networks: a reproduction of LayerPipe2.

>>> from layerpipe2 import DelaySchedule, PipelinedModule, make_history, partition
"""

from layerpipe2.delays import DelaySchedule
from layerpipe2.errors import UserError
from layerpipe2.history import STRATEGIES, make_history
from layerpipe2.pipeline import PipelinedModule
from layerpipe2.stages import partition

__all__ = ["STRATEGIES", "DelaySchedule", "PipelinedModule", "UserError", "make_history", "partition"]
__version__ = "0.1.0"
