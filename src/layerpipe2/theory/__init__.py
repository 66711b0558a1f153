"""The theory made executable: signal-flow graphs, retiming, the derivation of the delays with its proofs, stability.

All but :mod:`layerpipe2.theory.stability` and the reconstruction need the extra ``theory`` (networkx, scipy).

>>> from layerpipe2.theory.derivation import derive
>>> derive(3).delays
(4, 2, 0)
"""
