"""The theory made executable: signal-flow graphs, retiming, the derivation of the delays with its proofs, stability.

Needs the extra ``theory`` (networkx, scipy); of the rest of the package only the command line and
:mod:`layerpipe2.advice` import this sub-package.

>>> from layerpipe2.theory import derive
>>> derive(3).delays
(4, 2, 0)
"""

from layerpipe2.theory.derivation import Derivation, Step, derive
from layerpipe2.theory.network import LayeredNetwork, Operation, chain, from_units, named
from layerpipe2.theory.proofs import Claim, prove
from layerpipe2.theory.stability import largest_stable_step

__all__ = [
    "Claim",
    "Derivation",
    "LayeredNetwork",
    "Operation",
    "Step",
    "chain",
    "derive",
    "from_units",
    "largest_stable_step",
    "named",
    "prove",
]
