"""Graphs by name, of which the study trains two."""
