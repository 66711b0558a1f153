"""Tuning with Optuna: spaces as text, one queue of trials for one machine or many, results as run records."""

MOST_TRIALS = 100_000
"""Of a study."""
MOST_JOBS = 256
"""Processes side by side on one machine."""
