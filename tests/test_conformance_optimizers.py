"""The bounds that optimizers are checked with, and what the checks say of a formula that is not the optimizer's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from needle_core.testing import MismatchError
from needle_core.testing.optimizers import OptimizerCase, checks_of_optimizer, promised_by_optimizer
from needle_core.testing.trajectories import Reference

U = 2.0**-24
C_U = 8 * U


def descent(p: Any, g: Any, s: Any, t: int, lr: float) -> Any:
    return p - lr * g, {}


def sign_of_momentum(p: Any, g: Any, s: Any, t: int, lr: float) -> Any:
    m = 0.5 * s.get("m", 0) + 0.5 * g
    return p - lr * np.sign(m), {"m": m}


def test_bound_of_descent_is_what_is_added_up() -> None:
    gradients = [np.array([3.0, -0.5]), np.array([1.0, 2.0]), np.array([-4.0, 0.0])]
    reference = Reference(OptimizerCase("SGD", descent), {}, np.array([1.0, -2.0]), U)
    p, expected = np.array([1.0, -2.0]), np.zeros(2)
    for t, g in enumerate(gradients, 1):
        reference.step(g, t, 0.1)
        p = p - 0.1 * g
        expected += C_U * (0.1 * np.abs(g) + np.abs(p) + 0.1 * np.abs(g))  # the gradient's, the result's, the step's
    np.testing.assert_allclose(reference.p, p, rtol=1e-15)
    np.testing.assert_allclose(reference.e, expected, rtol=1e-6)


def test_bound_grows_to_the_height_of_a_jump_that_rounding_may_carry_across() -> None:
    reference = Reference(OptimizerCase("Lion", sign_of_momentum), {}, np.zeros(2), U)
    reference.step(np.array([2.0, 2.0]), 1, 0.1)
    reference.step(np.array([-1.0 * (1 - 1e-7), -0.9]), 2, 0.1)  # the first momentum is now 0 but for rounding
    assert reference.e[0] >= 0.2
    assert reference.e[1] < 1e-6


def test_a_reference_of_another_optimizer_does_not_fit() -> None:
    case = OptimizerCase("SGD", sign_of_momentum)
    (trajectory, *_) = checks_of_optimizer(case)
    with pytest.raises(MismatchError, match=r"^SGD/trajectory/defaults/float64: parameter 0 after step 1: .* error / bound"):
        trajectory()


def test_checks_are_as_many_as_promised_and_differ_in_name() -> None:
    case = OptimizerCase("SGD", descent, settings=[{}, {"momentum": 0.9}], refusals=[({"momentum": 1.0}, TypeError, "")])
    for quick, number in ((False, 2 * 14 + 1), (True, 2 * 12 + 1)):
        ids = [check.id for check in checks_of_optimizer(case, quick=quick)]
        assert len(ids) == len(set(ids)) == number == promised_by_optimizer(case, quick=quick).total()
