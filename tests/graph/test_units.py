"""What a compiling backend runs as one: updates that are alike, a loss with its gradient; and what it need not run."""

from __future__ import annotations

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.graph.units import Unit, units


def units_of_step(device: str) -> tuple[list[Unit], list[str]]:
    """The units of a training step, and the names of the nodes of its plan."""
    ndl.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).to(device)
    opt = ndl.optim.Adam(model.parameters(), lr=1e-3)

    @ndl.compile
    def step(x: ndl.Tensor, labels: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss = nn.SoftmaxLoss()(model(x), labels)
        loss.backward()
        opt.step()
        return loss

    rng = np.random.default_rng(0)
    step(ndl.Tensor(rng.normal(size=(8, 3, 4)).astype(np.float32), device=device), ndl.Tensor([0, 1, 2, 3] * 2, device=device))
    return units(step.plan), [node.name for node in step.plan.graph.nodes]


@pytest.mark.parametrize("device", ["cpp", "loopback"])
def test_every_node_is_in_one_unit_but_reshapes_that_stay_in_place(device: str) -> None:
    parts, names = units_of_step(device)
    found = [node.name for part in parts for node in part.nodes]
    assert sorted(found) == sorted(name for name in names if name != "reshape")


def test_the_updates_of_all_parameters_are_one_unit() -> None:
    parts, _ = units_of_step("loopback")
    groups = [part for part in parts if part.is_group]
    assert max(len(part.nodes) for part in groups) >= 4
    for part in groups:
        assert part.inputs == tuple(v for node in part.nodes for v in node.inputs)
        assert part.outputs == tuple(y for node in part.nodes for y in node.outputs)


def test_a_loss_comes_with_its_gradient_where_a_backend_has_kernels_for_both() -> None:
    parts, _ = units_of_step("cpp")
    (joined,) = (part for part in parts if part.nodes[0].name == "cross_entropy_grad")
    assert [node.name for node in joined.nodes] == ["cross_entropy_grad", "cross_entropy"]
    assert not joined.is_group
    assert len(joined.outputs) == 2


def test_the_time_of_a_unit_is_shared_by_bytes() -> None:
    parts, _ = units_of_step("loopback")
    part = max(parts, key=lambda part: len(part.nodes))
    shares = part.shares(2.0)
    assert sum(shares.values()) == pytest.approx(2.0)
    largest = max(part.nodes, key=lambda node: node.outputs[0].spec.size)
    assert shares[largest] == max(shares.values())
