"""Figures, tables and page of pipelines that were run on real processes, from the benchmark's records alone."""
