"""The example of a complete backend: its length, and what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

import needle_core
from tests.plugin_fixtures import Site, site
from tests.projects import install
from tests.test_primitives import PRIMITIVES

__all__ = ["site"]

pytestmark = pytest.mark.once

PROJECT = Path(needle_core.__file__).parent.parent / "examples" / "backend_in_150_lines"
LIMIT = 150


@pytest.fixture
def tiny(site: Site) -> Site:
    install(site, PROJECT)
    return site


def test_it_has_at_most_150_lines() -> None:
    lines = [line for file in PROJECT.glob("needle_tiny_backend/**/*.py") for line in file.read_text().splitlines()]
    assert 0 < len(lines) <= LIMIT


def test_it_has_a_kernel_for_each_primitive_and_no_other(tiny: Site) -> None:
    done = tiny.python("""
        import needle_core as ndl
        from needle_core.op import KERNELS
        ndl.device("tiny")
        print(*sorted(op for op, backend in KERNELS if backend == "tiny"))
    """)
    assert done.stdout.split() == PRIMITIVES


def test_it_does_not_import_another_backend(tiny: Site) -> None:
    done = tiny.python("""
        import sys
        import needle_core as ndl
        ndl.Tensor([1.0], device="tiny")
        print([name for name in sys.modules if name.startswith("needle_") and name.endswith("_backend")])
    """)
    assert done.stdout == "['needle_tiny_backend']\n"


def test_it_is_no_default_device_unless_asked_for(tiny: Site) -> None:
    assert "tiny" not in tiny.python("import needle_core as ndl; print(ndl.default_device())").stdout
    assert tiny.python("import needle_core as ndl; print(ndl.Tensor([1.0]).device)", NEEDLE_DEVICE="tiny").stdout == "tiny\n"


def test_a_network_learns_on_it(tiny: Site) -> None:
    done = tiny.python(
        """
        import needle_core as ndl
        from needle_core import nn
        ndl.manual_seed(0)
        x = ndl.Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        labels = ndl.Tensor([0, 1, 1, 0])
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = ndl.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.reset_grad()
            loss = nn.SoftmaxLoss()(model(x), labels)
            loss.backward()
            optimizer.step()
        print(loss.device, loss.item() < 0.05)
        """,
        NEEDLE_DEVICE="tiny",
    )
    assert (done.stdout, done.stderr) == ("tiny True\n", "")
