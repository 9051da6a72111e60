"""Measures what LLM inference costs in energy, and keeps the measurements honest."""

__version__ = "0.1.0"
