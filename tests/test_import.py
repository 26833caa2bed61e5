"""What importing costs and what it offers, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

import needle_core as ndl

HEAVY = {
    "rich", "click", "safetensors", "ml_dtypes", "matplotlib", "sklearn", "pluggy", "importlib.metadata", "needle_optimizers",
    "needle_cpp_backend.native", "needle_numpy_backend", "needle_core.data", "needle_core.checkpoint", "needle_core.cli",
    "needle_core.testing.samples",
}  # fmt: skip


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter, which must end well and without a warning."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_core_loads_nothing_heavy() -> None:
    before = "import numpy, sys; before = set(sys.modules); import needle_core; "
    assert python(f"{before}print(sorted({HEAVY!r} & (set(sys.modules) - before)))") == "[]"


def test_first_use_loads_what_is_used_and_no_more() -> None:
    device = str(ndl.default_device())  # to find out which it is takes all backends
    uses = f"needle_core.Tensor(1.0, device={device!r}), needle_core.data, needle_core.checkpoint"
    loaded = python(
        f"import needle_core, sys; {uses}; print(sorted({HEAVY - {'pluggy', 'importlib.metadata'}!r} & set(sys.modules)))"
    )
    backend = "needle_cpp_backend.native" if device == "cpp" else "needle_numpy_backend"  # which loopback computes with too
    assert loaded == str(sorted(["needle_core.checkpoint", "needle_core.data", backend]))


def test_public_names_exist() -> None:
    assert [name for name in ndl.__all__ if not hasattr(ndl, name)] == []


def test_public_names_are_listed_once() -> None:
    assert len(set(ndl.__all__)) == len(ndl.__all__)


def test_public_names_start_without_an_underscore() -> None:
    assert [name for name in ndl.__all__ if name.startswith("_")] == []


def test_star_import_gives_the_public_names() -> None:
    code = "from needle_core import *; import needle_core; print(sorted(set(needle_core.__all__) - set(globals())))"
    assert python(code) == "[]"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = ndl.nonsense
    assert str(caught.value) == "module 'needle_core' has no attribute 'nonsense'"
