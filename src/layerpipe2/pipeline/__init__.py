"""The pipeline on real processes: each owns some stages, all run at the same time, over torch.distributed.

What a stage computes is the simulation's (:mod:`layerpipe2.engine.weights`, :mod:`layerpipe2.strategies`,
:mod:`layerpipe2.engine.saved_weights`); here stands when it computes, and how tensors get from one process to the next.
"""
