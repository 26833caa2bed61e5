"""Recipes run on the simulated device, and the values that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from needle_core import backend as core
from needle_core.backend import device
from needle_core.op import OPS
from needle_core.spec import DTYPES, Device, Spec
from needle_cuda_backend.issue import prepared
from needle_cuda_backend.recipe import Call, Place, Recipe
from needle_cuda_backend.simulated.device import SimulatedDriver

Array = npt.NDArray[Any]


class Case(NamedTuple):
    """A call of a maker: through the front door of `op`, by default of the maker's name, with arrays and attributes.

    `over` says which outputs lie where an input does. `outputs` is for calls that no door lets in: their shapes.
    """

    maker: Callable[[Call], Recipe]
    arrays: Sequence[Array]
    attrs: Mapping[str, Any]
    op: str = ""
    fixed: bool = False
    over: Mapping[int, int] = {}
    outputs: Sequence[Sequence[int]] = ()
    on: Device | str = "numpy"
    """The device that specs are of: what takes a body apart looks for the kernels of its ops there."""

    def call(self) -> Call:
        specs = tuple(Spec.of(a.shape, DTYPES[a.dtype.name], device(self.on)) for a in self.arrays)
        found, attrs = OPS[self.op or self.maker.__name__].door(*specs, **self.attrs)
        results = found if isinstance(found, tuple) else (found,)
        more = tuple(results[0].like(shape=tuple(shape)) for shape in self.outputs)
        return Call(specs, results + more, attrs, self.fixed)


class Simulated:
    """The simulated device with what runs recipes there."""

    def __init__(self) -> None:
        self.driver = SimulatedDriver()

    def results(self, cases: Sequence[Case]) -> Iterator[list[Array]]:
        """The results of each case; the kernels of all are compiled together."""
        calls = [case.call() for case in cases]
        recipes = [case.maker(call) for case, call in zip(cases, calls, strict=True)]
        for case, call, recipe, operations in zip(cases, calls, recipes, prepared(self.driver, recipes), strict=True):
            yield self._run(case, call, recipe, operations)

    def _run(self, case: Case, call: Call, recipe: Recipe, operations: Sequence[Any]) -> list[Array]:
        driver = self.driver
        given = [driver.allocate(a.nbytes) for a in case.arrays]
        for memory, a in zip(given, case.arrays, strict=True):
            driver.write(memory.address, np.ascontiguousarray(a))
        made = [given[case.over[i]] if i in case.over else driver.allocate(y.nbytes) for i, y in enumerate(call.outputs)]
        scratch = driver.allocate(recipe.scratch)

        def address(place: Place) -> int:
            if place.region in ("failure", "mark", "memory"):
                return {"failure": driver.failure, "mark": 3, "memory": place.offset}[place.region]
            base = {"input": given, "output": made, "scratch": [scratch]}[place.region][place.number]
            return base.address + place.offset

        for bind in operations:
            bind(address)()
        if driver.take_mark():
            assert recipe.failure is not None
            raise recipe.failure[0](recipe.failure[1])
        results = [np.empty(y.shape, y.dtype.numpy) for y in call.outputs]
        for memory, y in zip(made, results, strict=True):
            driver.read(memory.address, y)
        for i, (memory, a) in enumerate(zip(given, case.arrays, strict=True)):
            if i not in case.over.values():  # operands stay as they are
                kept = np.empty_like(np.ascontiguousarray(a))
                driver.read(memory.address, kept)
                assert kept.tobytes() == np.ascontiguousarray(a).tobytes()
        return results


@pytest.fixture(scope="session")
def simulated() -> Simulated:
    return Simulated()


@pytest.fixture(scope="session")
def opened() -> Mapping[str, Any]:
    """What the core knows of the backend once its device, simulated, is open. It forgets it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEEDLE_CUDA_SIMULATED", "1")
        device("cuda:0")
    return {name: getattr(core, name).pop(key) for name, key in _KNOWN.items()}


_KNOWN = {"_backends": "cuda", "_makers": "cuda", "_devices": "cuda:0"}


@pytest.fixture
def cuda(opened: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device cuda:0, simulated, which only the tests that ask for it know."""
    for name, key in _KNOWN.items():
        monkeypatch.setitem(getattr(core, name), key, opened[name])
    return device("cuda:0")


@pytest.fixture(scope="session")
def case() -> type[Case]:
    return Case
