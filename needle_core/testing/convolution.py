"""Declarations of the family convolution."""
