"""Declarations of the family interpolation."""
