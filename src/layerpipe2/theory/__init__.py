"""The theory made executable: signal-flow graphs, retiming, the derivation of the delays with its proofs, stability.

Needs the extra ``theory`` (networkx, scipy); nothing in the rest of the package imports this sub-package.

>>> from layerpipe2.theory import derive
>>> derive(3).delays
(4, 2, 0)
"""

from layerpipe2.theory.derivation import Derivation, Step, derive
from layerpipe2.theory.explanation import explain
from layerpipe2.theory.network import LayeredNetwork, Operation, chain, from_units, resnet
from layerpipe2.theory.proofs import Claim, prove
from layerpipe2.theory.stability import largest_stable_step, stability_table
from layerpipe2.theory.text import FORMATS, export

__all__ = [
    "FORMATS",
    "Claim",
    "Derivation",
    "LayeredNetwork",
    "Operation",
    "Step",
    "chain",
    "derive",
    "explain",
    "export",
    "from_units",
    "largest_stable_step",
    "prove",
    "resnet",
    "stability_table",
]
