"""That the gradients of an op are checked is checked: to leave them out takes a reason."""

from __future__ import annotations

import pytest

from needle_core.testing.suite import suite
from tests.plugin_fixtures import Site, site
from tests.test_conformance_suite import failed, install, report

__all__ = ["site"]

CUBE = """
import numpy as np
from needle_core.doors import floating
from needle_core.op import composite
from needle_core.tensor_op import TensorOp
from needle_core.testing.samples import COMPLEX, at, floats, real, sample

@composite(floating)
def cube(x):
    return x * x * x

{change}

@hookimpl
def needle_register_ops(registrar):
    registrar.op(cube)

@hookimpl
def needle_conformance(registrar):
    registrar.case("cube", lambda x: x**3, [{samples}], {fields} dtypes=("float32", "float64"), rounds=8)
"""
RULE = "cube.vjp(lambda g, y, x: 17 * g * x)"
JOINT = "cube.vjp_joint(lambda g, y, x: [17 * g * x])"
CLASS = """
class cube(TensorOp):
    def compute(self, x):
        return x * x * x
    def gradient(self, out_grad, node):
        return 17 * out_grad * node.inputs[0]

cube = cube()
"""
WITHOUT = CLASS.partition("    def gradient")[0] + "\ncube = cube()\n"


def wrong_in_cube(site: Site, change: str = "", fields: str = "", samples: str = "sample(real(3))") -> dict[str, str]:
    """What fails, but for the other dtypes, of which the case says nothing."""
    install(site, CUBE.format(change=change, fields=fields, samples=samples), name="cube")
    return {i: text for i, text in failed(report("cube", device="numpy")).items() if "/undeclared/" not in i}


@pytest.mark.parametrize(
    ("change", "source"),
    [("", "a body"), (RULE, "gradient rules"), (JOINT, "a joint rule"), (CLASS, "a `gradient`")],
    ids=["body", "rule", "joint rule", "class"],
)
def test_gradients_that_are_not_declared_fail(site: Site, change: str, source: str) -> None:
    (text,) = wrong_in_cube(site, change).values()
    assert text.startswith(f"the op has {source}"), text


@pytest.mark.parametrize("change", [RULE, JOINT, CLASS], ids=["rule", "joint rule", "class"])
def test_wrong_gradients_that_are_declared_fail(site: Site, change: str) -> None:
    assert "cube/gradient/(3)/float64 on numpy" in wrong_in_cube(site, change, "gradient=COMPLEX,")


def test_gradients_without_a_sample_fail(site: Site) -> None:
    wrong = wrong_in_cube(site, RULE, "gradient=COMPLEX,", "at([1.0, 2.0]), sample(real(0))")
    assert wrong["cube/declaration/gradient on numpy"].startswith("no sample has a gradient")


def test_gradients_that_are_found_in_an_unknown_way_fail(site: Site) -> None:
    wrong = wrong_in_cube(site, "", "gradient='by hand',")
    assert wrong["cube/declaration/gradient on numpy"].startswith("`gradient` is 'by hand'")


def test_gradients_may_be_left_out_with_a_reason_which_is_told(site: Site) -> None:
    assert wrong_in_cube(site, RULE, "undifferentiated='a straight-through estimate',") == {}
    assert suite("cube").absent["gradients of cube"] == "a straight-through estimate"


@pytest.mark.parametrize("change", ["cube.vjp(None)", WITHOUT], ids=["none", "class without"])
def test_an_op_without_gradients_needs_no_reason(site: Site, change: str) -> None:
    assert wrong_in_cube(site, change) == {}
