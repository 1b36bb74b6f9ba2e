"""Metrics of generated images, and their intervals."""
