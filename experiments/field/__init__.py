"""Mitigations of staleness from the literature, each on the public interface; :mod:`experiments.field.rows` lists them.

The notation: ``W(t)`` weights after ``t`` updates, ``g`` the gradient that arrives then (its forward pass read
``W(t - d)``), ``d`` the delay in updates, ``u = W(t) - W(t + 1)`` the whole update, ``v <- m v + g`` momentum.

What a late gradient costs has two parts. The *delay*: the gradient is one at old weights (sequential training against
exact stashing). The *inconsistency*: without a stash the backward pass reads other weights than the forward pass did
(stashing against the latest weights). Each docstring says which of them a row can touch, and what it keeps.
"""
