"""Figures, tables and the report: pure functions of the records in ``results/*.csv``."""
