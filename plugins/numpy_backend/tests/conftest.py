"""Tensors of these tests are on numpy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import needle_core as ndl
from needle_core import backend


@pytest.fixture(autouse=True)
def numpy() -> Iterator[None]:
    """The default device, which is as before after the test."""
    chosen = backend.chosen_device()
    ndl.set_default_device("numpy")
    yield
    ndl.set_default_device(chosen)
