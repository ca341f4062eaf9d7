"""Speed against the public code's figures: ``python -m benchmarks.run``."""
