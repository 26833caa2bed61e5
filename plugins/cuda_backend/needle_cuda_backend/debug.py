"""Looking into steps: `NEEDLE_CUDA_DEBUG=1` waits for each operation and names it, `NEEDLE_CUDA_DUMP` writes all down."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from needle_core.errors import KernelError, NeedleError
from needle_core.graph.costs import nbytes, operations
from needle_core.graph.graph import Node
from needle_core.graph.plan import Plan
from needle_core.plugins.environment import flag
from needle_cuda_backend.driver import Driver
from needle_cuda_backend.recipe import Launch, Recipe
from needle_cuda_backend.unit import cubin, source_of

DUMPED_FOR: Final = "sm_90a"
"""The architecture of dumped machine code where there is no device that says its own."""

_numbers = count()


def is_on() -> bool:
    """Whether steps are issued operation by operation."""
    return flag("NEEDLE_CUDA_DEBUG")


def watched(driver: Driver, node: Node, operation: Any, run: Callable[[], None]) -> None:
    """Run an operation and wait for it; an error names it, and the line of the user's that led to it."""
    try:
        run()
        driver.synchronize()
    except Exception as cause:
        if isinstance(cause, NeedleError) and not isinstance(cause, KernelError):
            raise  # a number that was refused, with the line of the user's
        details = {"node": f"{node.name}, {node.source}", "operation": _told(operation)}
        if isinstance(operation, Launch):
            details["source"] = "\n" + operation.entry.body
        raise KernelError(f"{node.name}: {cause}", details=details) from cause


def dump(plan: Plan, recipes: Sequence[Recipe], driver: Driver) -> None:
    """Write sources, machine code, plan and graph into the folder that `NEEDLE_CUDA_DUMP` names, in one of their own."""
    if not (chosen := os.environ.get("NEEDLE_CUDA_DUMP")):
        return
    folder = Path(chosen) / f"step{next(_numbers)}"
    folder.mkdir(parents=True, exist_ok=True)
    source = source_of(x.entry for recipe in recipes for x in recipe.operations if isinstance(x, Launch))
    (folder / "kernels.cu").write_text(source)
    architecture = DUMPED_FOR if driver.architecture == "simulated" else driver.architecture
    (folder / "kernels.cubin").write_bytes(cubin(source, architecture).code)
    (folder / "operations.txt").write_text("".join(f"{_told(x)}\n" for recipe in recipes for x in recipe.operations))
    (folder / "graph.txt").write_text(f"{plan.graph}\n")
    (folder / "graph.dot").write_text(plan.graph.to_dot())
    lines = [f"arena of {plan.arena} bytes"]
    for node in plan.graph.nodes:
        places = ", ".join(f"{v.spec} at {' '.join(map(str, plan.memory[v]))}" for v in node.outputs)
        lines.append(f"{node.name}: {places}; {nbytes(node)} bytes, {operations(node)} operations; {node.source}")
    (folder / "plan.txt").write_text("\n".join(lines) + "\n")


def _told(operation: Any) -> str:
    if isinstance(operation, Launch):
        return f"{operation.entry.name}, grid {operation.grid}, blocks {operation.block}"
    return str(operation)
