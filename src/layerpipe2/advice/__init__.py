"""Advice before a training: can this pipeline do without a weight history?

A hundred updates by exact stashing tell how far each strategy's gradients would point elsewhere. Needs the extra
``theory`` (networkx, scipy).

>>> from layerpipe2.advice import advise
>>> from layerpipe2.lab.runs.config import RunConfig
>>> advise(RunConfig(group_size=3, lr=1e-3), steps=10).verdict
'drop'
"""

from layerpipe2.advice.advise import advise, advise_module
from layerpipe2.advice.result import Advice, predictors
from layerpipe2.advice.rule import RULE, Rule, strategy_of

__all__ = ["RULE", "Advice", "Rule", "advise", "advise_module", "predictors", "strategy_of"]
