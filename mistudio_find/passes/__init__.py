"""The compiled pass over all activations: what makes Find fast, as plain loops over arrays."""

BINS, TENTHS = 20, 10
"""Bins of a histogram between 0 and the largest activation; parts of a document."""
