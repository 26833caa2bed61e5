"""What the plans of the training steps ask of a GPU, told without one: python benchmarks/gpu/plans.py [--architecture sm_90a]

For each workload of needle_core.benchmark: kernels and launches, how long NVRTC takes for them, their registers, the bytes and
operations of the plan, and the least time that these would take at the bandwidth and the float32 rate of an H100 SXM (3.0 TB/s
measured, 67 TFLOP/s on paper), beside a floor: the operations of products alone, and all state read and written once.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["NEEDLE_CUDA_SIMULATED"] = "1"

import needle_core as ndl
from needle_core.benchmark.workloads import WORKLOADS
from needle_core.graph.costs import nbytes, operations
from needle_core.graph.graph import Node
from needle_core.graph.plan import Plan
from needle_core.graph.units import units
from needle_cuda_backend.compiler import recipe_of_unit
from needle_cuda_backend.recipe import Launch, Many
from needle_cuda_backend.unit import cubin, source_of

BANDWIDTH = 3.0e12
"""Bytes a second."""
RATE = 67e12
"""Operations of float32 a second."""

PRODUCTS = ("matmul", "gemm", "linear", "conv", "conv_transpose", "conv_weight_grad", "lstm", "lstm_grad", "self_attention")


def plan_of(name: str) -> Plan:
    """The plan of a workload's step."""
    ndl.set_default_device("cuda:0")
    step = ndl.compile(WORKLOADS[name]())
    step()
    return step.plan


def seconds(nodes: list[Node]) -> float:
    """The least time for nodes one after the other, each bound by memory or by arithmetic."""
    return sum(max(nbytes(node) / BANDWIDTH, operations(node) / RATE) for node in nodes)


def floor(plan: Plan) -> float:
    """The time for the operations of products, and for state to be read and written once."""
    work = sum(operations(node) for node in plan.graph.nodes if node.name.startswith(PRODUCTS))
    state = sum(2 * plan.graph.inputs[j].spec.nbytes for j in plan.donated.values())
    return max(work / RATE, state / BANDWIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="sm_90a")
    args = parser.parse_args()
    head = (
        "step",
        "units",
        "launches",
        "library",
        "kernels",
        "NVRTC s",
        "registers",
        "spilled",
        "MB",
        "Gop",
        "least us",
        "floor us",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in WORKLOADS:
        plan = plan_of(name)
        parts = units(plan)
        nodes = [node for unit in parts for node in unit.nodes]
        issued = [x for unit in parts for x in recipe_of_unit(unit).operations]
        launches = [x for x in issued if isinstance(x, Launch | Many)]
        entries = {x.entry for x in launches}
        source = source_of(entries) + f"// {time.time()}\n"  # so that it is not found in the cache
        start = time.perf_counter()
        usage = cubin(source, args.architecture).usage().values()
        took = time.perf_counter() - start
        row = (
            name, len(parts), len(launches), len(issued) - len(launches), len(entries), f"{took:.2f}",
            max(registers for registers, _ in usage), max(spilled for _, spilled in usage),
            f"{sum(map(nbytes, nodes)) / 1e6:.2f}", f"{sum(map(operations, nodes)) / 1e9:.3f}",
            f"{seconds(nodes) * 1e6:.1f}", f"{floor(plan) * 1e6:.1f}",
        )  # fmt: skip
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
