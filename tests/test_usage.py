"""Which ops a program uses: all of them, also in bodies that a kernel stands for, and from every thread."""

from __future__ import annotations

import threading

import numpy as np

import needle_core as ndl
from needle_core.op import OPS
from needle_core.testing.usage import recorded


def test_ops_are_seen_with_the_ops_they_are_called_in() -> None:
    x = ndl.ones((2, 3))
    with recorded() as used:
        ndl.tanh(x)
        ndl.log_softmax(x)
    assert used["tanh"].within == {""}
    assert used["log_softmax"].within == {""}
    assert "log_softmax" in used["logsumexp"].within
    assert "matmul" not in used


def test_operators_and_repeated_calls_are_seen() -> None:
    x = ndl.ones((2, 2))
    for _ in range(2):
        x + x, x @ x, x * 2.0
    with recorded() as used:
        x + x, x @ x, x * 2.0
    assert {"add", "matmul", "multiply"} <= set(used)


def test_the_body_of_a_composite_is_seen_although_the_backend_has_a_kernel_for_it() -> None:
    with recorded() as used:
        ndl.softmax(ndl.ones((2, 3)))
    assert "softmax" in used["exp"].within


def test_what_an_op_does_after_it_was_seen_once_is_seen_in_other_ops_too() -> None:
    x = ndl.ones((2, 3))
    with recorded() as used:
        ndl.exp(x)
        ndl.softmax(x)
    assert used["exp"].within >= {"", "softmax"}


def test_the_backward_pass_is_seen() -> None:
    x = ndl.Tensor([0.5], requires_grad=True)
    with recorded() as used:
        ndl.sin(x).sum().backward()
    assert "cos" in used


def test_mixed_dtypes_show_the_cast() -> None:
    with recorded() as used:
        ndl.add(ndl.ones(2), ndl.ones(2, dtype="float64"))
    assert used["add"].within == {""}
    assert used["astype"].within == {"add"}


def test_threads_are_seen() -> None:
    x = ndl.ones(3)
    with recorded() as used:
        thread = threading.Thread(target=lambda: ndl.exp(x))
        thread.start()
        thread.join()
    assert used["exp"].within == {""}


def test_an_op_that_fails_is_seen_and_those_after_it_too() -> None:
    x = ndl.ones(3)
    with recorded() as used:
        try:
            ndl.take(x, ndl.Tensor([7]), axis=0)
        except ndl.errors.BoundsError:
            ndl.exp(x)
    assert {"take", "exp"} <= set(used)
    assert used["exp"].within == {""}


def test_values_are_those_without_recording() -> None:
    x = ndl.Tensor(np.linspace(-1, 1, 6).reshape(2, 3))
    expected = ndl.softmax(x).numpy()
    with recorded():
        np.testing.assert_array_equal(ndl.softmax(x).numpy(), expected)
    np.testing.assert_array_equal(ndl.softmax(x).numpy(), expected)


def test_afterwards_calls_are_remembered_as_before() -> None:
    x = ndl.ones(3)
    with recorded() as used:
        ndl.exp(x)
    used.clear()
    ndl.exp(x)
    assert len(OPS["exp"]._runs) == 1
    assert used == {}
