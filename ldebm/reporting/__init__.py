"""Recorded runs, comparisons of them, and the tables beside the papers' numbers."""
