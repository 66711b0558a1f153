"""Advice before a training: can this pipeline do without a weight history?

A hundred updates by exact stashing tell how far each strategy's gradients would point elsewhere.
"""

from layerpipe2.advice.advise import STEPS, advise_module
from layerpipe2.advice.result import Advice, predictors
from layerpipe2.advice.rule import RULE, Rule, strategy_of

__all__ = ["RULE", "STEPS", "Advice", "Rule", "advise_module", "predictors", "strategy_of"]
