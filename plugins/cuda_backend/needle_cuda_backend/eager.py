"""Eager calls: a recipe is made for each op, specs and attributes, prepared for the device, and issued with buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NoReturn

from needle_core.backend import device, public_functions
from needle_core.graph.passes import ELEMENTWISE
from needle_core.graph.single_ops import SINGLE
from needle_core.op import OPS
from needle_core.spec import Spec
from needle_cuda_backend.backend import driver_of
from needle_cuda_backend.body import recipe_of_programs
from needle_cuda_backend.issue import addresses, prepared
from needle_cuda_backend.memory import Buffer
from needle_cuda_backend.recipe import Call, Recipe

VIEWS: Final = frozenset({"reshape"})
"""Ops whose result is the memory of their operand."""


class CudaKernel:
    """A kernel of this backend; `recipe` makes that of a call."""

    def __init__(self, name: str, recipe: Callable[[Call], Recipe]) -> None:
        self.name, self.recipe = name, recipe

    def __call__(self, *buffers: Buffer, **attrs: Any) -> Any:
        specs = tuple(Spec.of(b.shape, b.dtype, device(f"cuda:{b.memory.driver.number}")) for b in buffers)
        output, canonical = OPS[self.name].door(*specs, **attrs)
        outputs = output if isinstance(output, tuple) else (output,)
        return self.bound(Call(specs, outputs, canonical), isinstance(output, tuple))(*buffers)

    def bound(self, call: Call, is_tuple: bool) -> Callable[..., Any]:
        """The function of buffers for eager calls."""
        driver = driver_of(call.outputs[0].device)
        if self.name in VIEWS:
            shape = call.outputs[0].shape
            return lambda x: Buffer(x.memory, shape, x.dtype)
        recipe = self.recipe(call)
        (operations,) = prepared(driver, [recipe])
        can_fail = recipe.failure is not None
        mark = driver.mark(partial(_refuse, recipe)) if can_fail else 0

        def run(*buffers: Buffer) -> Any:
            results = tuple([driver.buffer(y.shape, y.dtype) for y in call.outputs])
            with driver.lock:
                scratch = driver.space("eager", recipe.scratch).address if recipe.scratch else 0
                address = addresses(driver, [b.address for b in buffers], [y.address for y in results], scratch, mark)
                for bind in operations:
                    bind(address)()
                if can_fail:
                    driver.publish()
                    driver.synchronize()
            return results if is_tuple else results[0]

        return run


def _refuse(recipe: Recipe) -> NoReturn:
    assert recipe.failure is not None
    error, message = recipe.failure
    raise error(message)


def table() -> dict[str, CudaKernel]:
    """The kernels of this backend by name of op: a family of ops has its makers in the module of its name."""
    makers: dict[str, Callable[[Call], Recipe]] = {name: partial(recipe_of_programs, name) for name in (*PRIMITIVES, *SINGLE)}
    for family in sorted({op.family for op in OPS.values() if op.__module__.startswith("needle_core.ops.")}):
        if find_spec(f"needle_cuda_backend.{family}"):
            module = import_module(f"needle_cuda_backend.{family}")
            makers |= {name: maker for name, maker in public_functions(module).items() if name in OPS}
    return {name: CudaKernel(name, maker) for name, maker in makers.items()}


PRIMITIVES: Final = tuple(name for name in sorted(ELEMENTWISE) if OPS[name].is_primitive)
"""Elementwise ops, each an instruction of programs. Composites are taken apart, and their parts fused again."""
