"""Kernels of the family convolution."""
