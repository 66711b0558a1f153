"""What of the beginning of a training may predict whether it needs a weight history: drift, gradients, curvature.

Measured by ``python -m experiments.predictors`` for the cells of the coarse searches. The page of the evidence tells
how well each quantity does.
"""
