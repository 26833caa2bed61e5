"""Kernels of the family attention."""
