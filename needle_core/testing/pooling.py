"""Declarations of the family pooling."""
