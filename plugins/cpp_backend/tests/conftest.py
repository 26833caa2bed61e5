"""Tensors of these tests are on cpp."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import needle_core as ndl
from needle_core import backend
from needle_cpp_backend.native import native


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    """The default device; it and the number of threads are as before after the test."""
    chosen, threads = backend.chosen_device(), native.num_threads()
    ndl.set_default_device("cpp")
    yield
    ndl.set_default_device(chosen)
    ndl.set_num_threads(threads)
