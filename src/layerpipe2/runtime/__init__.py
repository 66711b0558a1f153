"""The pipeline on real processes: each owns some stages, all run at the same time, over torch.distributed.

What a stage computes is the simulator's (:mod:`layerpipe2.delayed_weights`, :mod:`layerpipe2.history`,
:mod:`layerpipe2.recall`); here stands when it computes, and how tensors get from one process to the next.
"""
