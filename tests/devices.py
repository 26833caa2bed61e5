"""What tests assume of the device that they run on."""

from __future__ import annotations

import pytest

import needle_core as ndl

on_the_host = pytest.mark.skipif(
    not ndl.default_device().backend.host, reason="buffers of the default device are not in the memory of the host"
)
"""For a test about host memory itself: sharing it, lending it, looking into it without a copy."""


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops that need the host, as a TensorOp does, may take their operands there."""
    monkeypatch.setenv("NEEDLE_FALLBACK", "allow")
