"""Giving a device what recipes say: operations are prepared once for a device, and bound to addresses as often as need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from needle_cuda_backend.convolution import CudnnCall
from needle_cuda_backend.cublaslt import fastest
from needle_cuda_backend.driver import WORKSPACE, Driver
from needle_cuda_backend.linalg import MatrixProduct
from needle_cuda_backend.memory import Memory
from needle_cuda_backend.recipe import Launch, Many, Place, Recipe
from needle_cuda_backend.templates import THREADS

Address: TypeAlias = Callable[[Place], int]
Run: TypeAlias = Callable[[], None]
Bind: TypeAlias = Callable[[Address], Run]
"""What gives an operation with addresses to a device."""


def addresses(driver: Driver, inputs: Sequence[int], outputs: Sequence[int], scratch: int, mark: int) -> Address:
    """What gives the places of a recipe addresses."""
    regions = {"input": inputs, "output": outputs, "scratch": (scratch,), "memory": (0,), "failure": (driver.failure,)}

    def address(place: Place) -> int:
        region, number, offset = place
        return mark if region == "mark" else regions[region][number] + offset

    return address


def prepared(driver: Driver, recipes: Sequence[Recipe]) -> list[list[Bind]]:
    """For each recipe its operations, made ready for a device. All kernels that are new to it are compiled together."""
    launches = [x for recipe in recipes for x in recipe.operations if isinstance(x, Launch | Many)]
    functions = driver.functions(x.entry for x in launches)
    return [[_PREPARE[type(x)](driver, x, functions) for x in recipe.operations] for recipe in recipes]


def _launch(driver: Driver, x: Launch, functions: Mapping[str, Any]) -> Bind:
    function, launch = functions[x.entry.name], driver.launch

    def bind(address: Address) -> Run:
        arguments = [address(a) if isinstance(a, Place) else a for a in x.arguments]
        return lambda: launch(function, x.grid, x.block, arguments)

    return bind


def _many(driver: Driver, x: Many, functions: Mapping[str, Any]) -> Bind:
    function, blocks = functions[x.entry.name], [-(-n // x.each) for _, n in x.members]
    table = [(member, i * x.each) for member, count in enumerate(blocks) for i in range(count)]

    def bind(address: Address) -> Run:
        rows = [(*map(address, places), n) for places, n in x.members]
        kept = [_on_device(driver, numbers) for numbers in (rows, table)]
        arguments = [memory.address for memory in kept] + [address(a) if isinstance(a, Place) else a for a in x.arguments]

        def run(kept: Sequence[Memory] = kept) -> None:
            driver.launch(function, (len(table), 1, 1), (THREADS, 1, 1), arguments)

        return run

    return bind


def _on_device(driver: Driver, numbers: Sequence[tuple[int, ...]]) -> Memory:
    array = np.array(numbers, np.int64)
    memory = driver.allocate(array.nbytes)
    driver.write(memory.address, array)
    return memory


def _product(driver: Driver, x: MatrixProduct, _: Mapping[str, Any]) -> Bind:
    """The algorithm is chosen by time when the product is first run, for which its result may be written several times."""
    library, workspace = driver.cublaslt, driver.space("products", WORKSPACE)
    choices = library.prepare(x.matrices, WORKSPACE)

    def bind(address: Address) -> Run:
        places = [address(x.a), address(x.b), 0 if x.bias is None else address(x.bias), address(x.y)]

        def with_choice(choice: Any) -> None:
            library.run(choice, *places, workspace.address, workspace.nbytes, driver.stream)

        def run() -> None:
            if len(choices) > 1:
                choices[:] = [fastest(choices, with_choice, driver.seconds)]
            with_choice(choices[0])

        return run

    return bind


def _cudnn(driver: Driver, x: CudnnCall, _: Mapping[str, Any]) -> Bind:
    library = driver.cudnn
    ready = library.prepare(x.description)
    workspace = driver.space("cudnn", ready.workspace_bytes)

    def bind(address: Address) -> Run:
        places = [address(place) for place in x.operands]
        return lambda: library.run(ready, places, workspace.address, driver.stream)

    return bind


_PREPARE: Final[Mapping[type, Callable[[Driver, Any, Mapping[str, Any]], Bind]]] = {
    Launch: _launch,
    Many: _many,
    MatrixProduct: _product,
    CudnnCall: _cudnn,
}
