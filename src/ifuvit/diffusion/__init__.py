PAPER_STEPS = 50
"""Solver steps of the paper's pictures and of its evaluation."""
DEFAULT_STEPS = 15
"""As good on the shipped model: in distance, counts and alignment inside the intervals of 50 (docs/performance.md)."""
