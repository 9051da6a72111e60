"""Targeted sampling: which points to measure next so that a predictor gets better for the least node time."""
