"""Every op of the core against its declaration in needle_core.testing: values, gradients, dtypes, layouts, errors."""

from __future__ import annotations

import pytest

from needle_core.op import OPS
from needle_core.testing import CASES, Case
from needle_core.testing.check import (
    check_forward,
    check_gradient,
    check_gradient_dtypes,
    check_refusal,
    check_second_order,
    check_special,
)
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.samples import FLOATING

CORE = {name: op for name, op in OPS.items() if op.__module__.startswith("needle_core.ops.")}
POINTWISE = [
    c for n, c in CASES.items() if OPS[n].family in ("elementwise", "elementary", "activation") and n not in ("where", "astype")
]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
differentiable = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items() if c.gradient])


def test_every_op_of_the_core_is_declared() -> None:
    assert set(CASES) == set(CORE)


def test_every_declaration_has_samples() -> None:
    assert not [name for name, case in CASES.items() if len(case.samples) < 3]


@every_case
def test_values(case: Case) -> None:
    for sample in case.samples:
        for dtype in case.dtypes_of(sample):
            check_forward(case, sample, dtype)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=n) for n, c in CASES.items() if not OPS[n].is_primitive and n != "to_device"]
)
def test_values_of_the_body(case: Case) -> None:
    """Of a composite, which runs where a backend has no kernel of its own."""
    for sample in case.samples:
        for dtype in case.dtypes_of(sample):
            check_forward(case, sample, dtype, body=True)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
@every_case
def test_values_in_layouts(case: Case, layout: str) -> None:
    for sample in case.samples:
        check_forward(case, sample, "float32", layout)


@differentiable
def test_gradients(case: Case) -> None:
    for sample in case.samples:
        if sample.smooth:
            check_gradient(case, sample)


@differentiable
def test_second_order_gradients(case: Case) -> None:
    for sample in case.samples:
        if sample.smooth:
            check_second_order(case, sample)


@pytest.mark.parametrize("dtypes", [["float16"], ["float32", "bfloat16", "float64"]], ids=str)
@differentiable
def test_gradients_have_the_specs_of_the_inputs(case: Case, dtypes: list[str]) -> None:
    for sample in case.samples:
        if sample.smooth:
            check_gradient_dtypes(case, sample, dtypes)


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("case", POINTWISE, ids=lambda case: case.name)
def test_infinities_and_nan(case: Case, dtype: str) -> None:
    check_special(case, dtype)


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, case in CASES.items() for i in range(len(case.refusals))], ids=lambda v: str(v)
)
def test_refuses(name: str, number: int) -> None:
    check_refusal(name, CASES[name].refusals[number])
