"""Pooling: windows reduced to a number each."""

from __future__ import annotations

__all__: list[str] = []
