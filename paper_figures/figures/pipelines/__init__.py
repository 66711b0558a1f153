"""Figures of pipelines that were run on real processes."""
