"""Verdicts on the measured pipelines."""
