"""Recorded runs, the meaning of their metrics, and tables beside the papers' numbers."""
