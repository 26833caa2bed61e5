"""Programs with their functions compiled, eager, and mixed leave the same bits behind: for the tests of steps.

A program is given `wrap`, what to do with its functions, and returns all that it leaves behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn, optim, tree
from needle_core.graph.compiled import compiled_functions

Function: TypeAlias = Callable[..., Any]
Wrap: TypeAlias = Callable[[Function], Function]
Batch: TypeAlias = tuple[ndl.Tensor, ndl.Tensor]


def eager(f: Function) -> Function:
    return f


def mixed(f: Function, *, keep_grads: bool = False) -> Function:
    """Every third call is eager, the first one too."""
    compiled, calls = ndl.compile(f, keep_grads=keep_grads), itertools.count()
    return lambda *args, **kwargs: (compiled if next(calls) % 3 else f)(*args, **kwargs)


def require_same(program: Callable[[Wrap], Any], *, keep_grads: bool = False) -> None:
    """The program leaves the same behind with its functions as they are, compiled, and mixed."""
    expected = outcome(program, eager)
    wraps: list[Function] = [ndl.compile, mixed]
    for wrap in wraps:
        with compiled_functions() as found:
            result = outcome(program, partial(wrap, keep_grads=keep_grads))
        assert different(result, expected) == []
        assert found


def different(found: Any, expected: Any) -> list[Any]:
    """The keys or places of what differs in two dictionaries or lists. Pytest would compare megabytes letter by letter."""
    if isinstance(expected, list):
        found, expected = dict(enumerate(found)), dict(enumerate(expected))
    return [key for key in {**found, **expected} if key not in found or key not in expected or found[key] != expected[key]]


def outcome(program: Callable[[Wrap], Any], wrap: Wrap) -> list[Any]:
    ndl.manual_seed(0)
    return bits([program(wrap), ndl.random.default_generator().state])


def bits(value: Any) -> list[Any]:
    """The structure of a tree, and of each leaf all that can be told apart."""
    leaves, structure = tree.flatten(value, whole=lambda v: isinstance(v, nn.Module | optim.Optimizer))
    return [structure, *map(_told, leaves)]


def _told(leaf: Any) -> Any:
    if isinstance(leaf, nn.Module | optim.Optimizer):
        return bits(leaf.state_dict())
    if isinstance(leaf, np.ndarray):
        return leaf.dtype, leaf.shape, leaf.tobytes()
    return (leaf.spec, leaf.requires_grad, leaf.numpy().tobytes()) if isinstance(leaf, ndl.Tensor) else repr(leaf)


# -- a network --------------------------------------------------------------------------------------------------------------

size = SimpleNamespace(width=8)


@pytest.fixture(params=[8, 16384], ids=["small", "large"], autouse=True)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are as wide as this. NumPy computes with 80,000 elements otherwise than with 40, and writes in place."""
    if request.param > 8 and not ndl.default_device().backend.host:
        pytest.skip("only NumPy makes a difference between large and small")
    monkeypatch.setattr(size, "width", request.param)


def network(dtype: str = "float32") -> nn.Sequential:
    """Running statistics, random numbers, and parameters in three places."""
    first, last = nn.Linear(5, size.width, dtype=dtype), nn.Linear(size.width, 3, dtype=dtype)
    return nn.Sequential(first, nn.BatchNorm1d(size.width, dtype=dtype), nn.ReLU(), nn.Dropout(0.3), last)


def batch(i: int, dtype: str = "float32", n: int = 6) -> Batch:
    rng = np.random.default_rng(i)
    return ndl.Tensor(rng.normal(size=(n, 5)), dtype=dtype), ndl.Tensor(rng.integers(0, 3, n))


def adam(params: list[ndl.Tensor]) -> optim.Optimizer:
    opt: optim.Optimizer = ndl.optim.Adam(params, lr=0.02)
    return opt


def training(model: nn.Module, opt: optim.Optimizer, clip: Function | None = None) -> Function:
    """A step (x, y) -> loss, and what `clip` gives."""
    loss_of = nn.SoftmaxLoss()

    def step(x: ndl.Tensor, y: ndl.Tensor) -> Any:
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        norm = None if clip is None else clip(model.parameters())
        opt.step()
        return loss.detach(), norm

    return step


def trained(
    wrap: Wrap, opt_of: Callable[[list[ndl.Tensor]], optim.Optimizer], steps: int = 20, dtype: str = "float32"
) -> tuple[nn.Module, optim.Optimizer, list[Any]]:
    """The network after some steps, its optimizer, and the losses."""
    model = network(dtype)
    opt = opt_of(model.parameters())
    step = wrap(training(model, opt))
    return model, opt, [step(*batch(i, dtype)) for i in range(steps)]
