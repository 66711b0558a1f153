"""Advice before a training: each strategy trains for a while, side by side, from the first update on."""

from layerpipe2.advice.advise import STEPS, advise_module
from layerpipe2.advice.result import Advice

__all__ = ["STEPS", "Advice", "advise_module"]
