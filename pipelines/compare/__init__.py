"""Comparisons of experiments and revisions, with intervals over seeds."""
