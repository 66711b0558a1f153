"""Tuning with Optuna: spaces as text, one queue of trials for one machine or many, results as run records."""
