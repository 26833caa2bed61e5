"""Kernels of the family interpolation."""
