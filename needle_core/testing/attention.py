"""Declarations of the family attention."""
