"""Declarations of the family recurrent."""
