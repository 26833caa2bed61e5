"""The Optimizer protocol: steps, groups, learning rates, states, clipping, and optimizers by name."""

from __future__ import annotations

import gc
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import checkpoint, optim
from needle_core.errors import ArgumentError, DeviceError, DtypeError, PluginError, ShapeError, StateError
from needle_core.tensor import Tensor
from tests.plugin_fixtures import HEAD, Site, of, site

HERE = ndl.default_device()

__all__ = ["site"]


class Heavy(optim.Optimizer):
    """Descent with momentum, as small as an optimizer can be that uses all of the protocol."""

    def __init__(self, params: optim.Params, lr: float | optim.Schedule = 0.1, *, beta: float = 0.5) -> None:
        super().__init__(params, lr, beta=beta)

    def check(self, hyper: optim.Hyper) -> None:
        optim.require_within("beta", hyper.beta, 0, 1)

    def init(self, p: Tensor, hyper: optim.Hyper) -> optim.State:
        return {"u": ndl.zeros_like(p)}

    def prepare(self, hyper: optim.Hyper, step: Tensor) -> None:
        hyper.step = step

    def update(self, p: Tensor, g: Tensor, state: optim.State, hyper: optim.Hyper) -> tuple[Tensor, optim.State]:
        u = hyper.beta * state["u"] + g
        return p - hyper.lr * u, {"u": u}


def parameter(*values: float, dtype: str = "float64", grad: float | None = None) -> Tensor:
    """A parameter, with the gradient `grad` in each element."""
    p = Tensor(list(values), dtype=dtype, requires_grad=True)
    p.grad = None if grad is None else ndl.full_like(p, grad)
    return p


def message(caught: pytest.ExceptionInfo[Any]) -> str:
    return str(caught.value)


# -- a step ---------------------------------------------------------------------------------------------------------------


def test_step_moves_parameters_by_the_rule() -> None:
    p = parameter(1.0, 2.0, grad=4.0)
    optimizer = Heavy([p], lr=0.25)
    optimizer.step()  # u = 4
    assert p.tolist() == [0.0, 1.0]
    optimizer.step()  # u = 2 + 4
    assert p.tolist() == [-1.5, -0.5]


def test_step_keeps_parameters_leaves_that_require_gradients() -> None:
    p = parameter(1.0, grad=1.0)
    Heavy([p]).step()
    assert p.is_leaf
    assert p.requires_grad


def test_step_records_nothing_for_gradients_that_are_part_of_a_graph() -> None:
    p, x = parameter(1.0), parameter(3.0)
    p.grad = x * x
    optimizer = Heavy([p])
    optimizer.step()
    assert p.is_leaf
    assert not optimizer.groups[0].states[0]["u"].requires_grad


def test_step_leaves_gradients_as_they_are() -> None:
    p = parameter(1.0, grad=4.0)
    g = p.grad
    assert g is not None
    buffer = g.buffer
    Heavy([p]).step()
    assert p.grad is g
    assert g.buffer is buffer
    assert g.tolist() == [4.0]


def test_step_leaves_earlier_values_as_they_were() -> None:
    p = parameter(1.0, grad=4.0)
    optimizer = Heavy([p])
    value, state = p.data, optimizer.state_dict()
    optimizer.step()
    assert value.tolist() == [1.0]
    assert state["parameters"][0]["u"].tolist() == [0.0]
    assert state["step"].item() == 0.0


def test_step_skips_parameters_without_gradient() -> None:
    p, q = parameter(1.0, grad=4.0), parameter(1.0)
    optimizer = Heavy([p, q])
    before = q.buffer
    optimizer.step()
    assert q.buffer is before
    assert optimizer.groups[0].states[1]["u"].tolist() == [0.0]


def test_step_restores_recording() -> None:
    p = parameter(1.0, grad=1.0)
    Heavy([p]).step()
    assert (p * 2).requires_grad
    with ndl.no_grad():
        Heavy([p]).step()
        assert not (p * 2).requires_grad


def test_step_counts_from_one() -> None:
    seen: list[float] = []

    class Counting(Heavy):
        def prepare(self, hyper: optim.Hyper, step: Tensor) -> None:
            seen.append(float(step))

    optimizer = Counting([parameter(1.0, grad=1.0)])
    optimizer.step()
    optimizer.step()
    assert seen == [1.0, 2.0]


def test_step_that_fails_changes_nothing() -> None:
    class Failing(Heavy):
        def update(self, p: Tensor, g: Tensor, state: optim.State, hyper: optim.Hyper) -> tuple[Tensor, optim.State]:
            if p is second:
                raise RuntimeError("in the middle")
            return super().update(p, g, state, hyper)

    first, second = parameter(1.0, grad=1.0), parameter(2.0, grad=1.0)
    optimizer = Failing([first, second])
    with pytest.raises(RuntimeError, match="in the middle"):
        optimizer.step()
    assert (first.item(), second.item()) == (1.0, 2.0)
    assert optimizer.groups[0].states[0]["u"].item() == 0.0
    assert optimizer.state_dict()["step"].item() == 0.0
    assert (first * 1).requires_grad


def test_state_may_take_values_that_are_replaced_in_the_same_step() -> None:
    class Delayed(optim.Optimizer):
        """Moves by the gradient of two steps before; keeps where the parameter was."""

        def init(self, p: Tensor, hyper: optim.Hyper) -> optim.State:
            zero = ndl.zeros_like(p)
            return {"last": zero, "previous": zero, "origin": p}

        def update(self, p: Tensor, g: Tensor, state: optim.State, hyper: optim.Hyper) -> tuple[Tensor, optim.State]:
            return p - state["previous"], {"last": g, "previous": state["last"], "origin": p}

    p = parameter(0.0)
    optimizer = Delayed([p], lr=0.0)
    trace = []
    for g in (1.0, 10.0, 100.0, 1000.0):
        p.grad = Tensor([g], dtype="float64")
        optimizer.step()
        trace.append((p.item(), optimizer.groups[0].states[0]["origin"].item()))
    assert trace == [(0.0, 0.0), (0.0, 0.0), (-1.0, 0.0), (-11.0, -1.0)]


def test_reset_grad_forgets_gradients_of_all_groups() -> None:
    p, q = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    Heavy([{"params": [p]}, {"params": [q]}]).reset_grad()
    assert p.grad is None
    assert q.grad is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype: str) -> None:
    p = parameter(1.0, dtype=dtype, grad=2.0**-9)
    optimizer = Heavy([p], lr=1.0, beta=0.5)
    optimizer.step()
    (state,) = optimizer.groups[0].states
    assert p.dtype is getattr(ndl, dtype)
    assert state["u"].dtype is ndl.float32


def test_parameters_of_several_dtypes_share_a_group() -> None:
    p, q = parameter(0.0, grad=1.0), parameter(0.0, dtype="float32", grad=1.0)
    Heavy([p, q], lr=0.1).step()
    assert (p.item(), q.item()) == (-0.1, float(-np.float32(0.1)))


def test_float64_parameters_get_the_learning_rate_exactly() -> None:
    p = parameter(0.0, grad=1.0)
    Heavy([p], lr=0.1).step()
    assert p.item() == -0.1


def test_memory_stays_flat() -> None:
    w, x = parameter(1.0, 2.0, dtype="float32"), Tensor([3.0, 4.0])
    optimizer = Heavy([w], lr=optim.CosineDecay(1e-3, steps=1000))

    def train(steps: int) -> int:
        for _ in range(steps):
            optimizer.reset_grad()
            ((w * x).sum() ** 2).backward()
            optim.clip_grad_norm([w], 1.0)
            optimizer.step()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = train(100)
        assert train(2000) - early < 4096
    finally:
        tracemalloc.stop()


# -- learning rates ---------------------------------------------------------------------------------------------------------


def test_lr_is_a_python_float_that_can_be_assigned_between_steps() -> None:
    p = parameter(0.0, grad=1.0)
    optimizer = Heavy([p], lr=0.1, beta=0.0)
    assert optimizer.lr == 0.1
    assert type(optimizer.lr) is float
    optimizer.step()
    optimizer.lr = 0.5
    optimizer.step()
    assert (optimizer.lr, p.item()) == (0.5, -0.6)


def test_lr_is_assigned_into_the_tensor_that_a_compiled_step_knows() -> None:
    optimizer = Heavy([parameter(0.0)])
    before = optimizer.groups[0].rate()
    optimizer.lr = 0.5
    assert optimizer.groups[0].rate() is before
    assert before.item() == 0.5


def test_lr_of_groups() -> None:
    p, q = parameter(0.0, grad=1.0), parameter(0.0, grad=1.0)
    optimizer = Heavy([{"params": [p], "lr": 0.5}, {"params": [q]}], lr=0.25)
    optimizer.step()
    assert (p.item(), q.item()) == (-0.5, -0.25)
    with pytest.raises(ArgumentError) as caught:
        optimizer.lr  # noqa: B018
    assert message(caught) == "Heavy.lr: the groups have different learning rates\n  groups[0].lr: 0.5\n  groups[1].lr: 0.25"
    optimizer.groups[1].lr = 1.0
    assert [group.lr for group in optimizer.groups] == [0.5, 1.0]
    optimizer.lr = 0.125
    assert optimizer.lr == 0.125


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_lr_out_of_range_is_refused(value: Any) -> None:
    optimizer = Heavy([parameter(0.0)], lr=0.1)
    with pytest.raises(ArgumentError) as caught:
        optimizer.lr = value
    assert message(caught) == f"lr must be a number in [0, inf), not {value!r}"
    assert optimizer.lr == 0.1
    with pytest.raises(ArgumentError) as caught:
        Heavy([parameter(0.0)], lr=value)
    assert message(caught) == f"Heavy: lr must be a number in [0, inf), not {value!r}\n  group: 0"


def test_lr_that_follows_a_schedule_is_that_of_the_next_step() -> None:
    p = parameter(0.0, grad=1.0)
    optimizer = Heavy([p], lr=lambda step: 1.0 / (step + 1.0), beta=0.0)
    assert optimizer.lr == 1.0
    optimizer.step()
    assert (optimizer.lr, p.item()) == (0.5, -1.0)
    optimizer.step()
    assert p.item() == -1.5


def test_lr_that_follows_a_schedule_cannot_be_assigned() -> None:
    with pytest.raises(ArgumentError) as caught:
        Heavy([parameter(0.0)], lr=optim.StepDecay(0.1, every=2)).lr = 0.5
    assert message(caught) == (
        "lr: the learning rate follows a schedule\n  schedule: StepDecay(start=0.1, every=2, factor=0.1)"
    )


@pytest.mark.parametrize("returned", [0.1, Tensor(0.1), Tensor([0.1], dtype="float64")])
def test_schedule_must_return_a_tensor_like_the_step(returned: Any) -> None:
    optimizer = Heavy([parameter(0.0, grad=1.0)], lr=lambda step: returned)
    with pytest.raises(ArgumentError, match=r"^Heavy: a schedule must return a tensor like the step\n  schedule: <function"):
        optimizer.step()


# -- parameters that do not fit ---------------------------------------------------------------------------------------------


def refused(params: Any, **hyper: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        Heavy(params, **hyper)
    return message(caught)


def test_parameters_may_come_from_a_generator() -> None:
    ps = [parameter(1.0), parameter(2.0)]
    assert Heavy(p for p in ps).groups[0].params == ps


def test_no_parameters_are_refused() -> None:
    assert refused([]) == "Heavy: there are no parameters"
    assert refused([{"params": [parameter(1.0)]}, {"params": []}]) == "Heavy: group 1 has no parameters"


def test_one_tensor_is_refused() -> None:
    expected = "Heavy: parameters come as an iterable of tensors, not as Tensor\n  hint: [p], or model.parameters()"
    assert refused(parameter(1.0)) == expected


def test_what_is_no_tensor_is_refused() -> None:
    assert refused([parameter(1.0), 2.0]) == "Heavy: a parameter is a tensor, not float"
    assert refused({"w": parameter(1.0)}) == "Heavy: a parameter is a tensor, not str"


def test_tensor_without_gradient_is_refused() -> None:
    assert refused([Tensor([1.0])]) == (
        "Heavy: parameter 0 of group 0 requires no gradient, so it would never change\n"
        f"  tensor: float32[1] on {HERE}\n"
        "  hint: [p for p in model.parameters() if p.requires_grad]"
    )


def test_result_of_an_op_is_refused() -> None:
    assert refused([parameter(1.0) * 2.0]) == (
        f"Heavy: parameter 0 of group 0 is the result of an op, so it would never change\n  tensor: float64[1] on {HERE}"
    )


def test_parameter_given_twice_is_refused() -> None:
    p = parameter(1.0)
    assert refused([{"params": [parameter(0.0), p]}, {"params": [p]}]) == (
        f"Heavy: parameter 0 of group 1 is parameter 1 of group 0 too, and would move twice\n  tensor: float64[1] on {HERE}"
    )


def test_unknown_hyperparameter_of_a_group_is_refused() -> None:
    expected = "Heavy: no hyperparameter 'momentum'\n  hyperparameters: lr, beta"
    assert refused([{"params": [parameter(1.0)], "momentum": 0.9}]) == expected


def test_group_without_params_is_refused() -> None:
    assert refused([{"lr": 0.1}]) == "Heavy: a group is a dict with the entry \"params\"\n  group 0: {'lr': 0.1}"


def test_parameters_on_several_devices_are_refused(site: Site) -> None:
    site.backend("elsewhere")
    with pytest.raises(DeviceError) as caught:
        Heavy([parameter(1.0), Tensor([1.0], device="elsewhere", requires_grad=True)])
    devices = ", ".join(sorted(["elsewhere", str(HERE)]))
    expected = f"Heavy: the parameters are on several devices, {devices}\n  hint: one optimizer for each"
    assert message(caught) == expected


def test_hyperparameter_of_a_group_is_checked() -> None:
    groups = [{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "beta": 2.0}]
    assert refused(groups) == "Heavy: beta must be a number in [0, 1), not 2.0\n  group: 1"


# -- gradients and updates that do not fit ------------------------------------------------------------------------------------


def test_gradient_of_another_shape_is_refused() -> None:
    p = parameter(1.0, 2.0)
    p.grad = Tensor([1.0], dtype="float64")
    with pytest.raises(ShapeError) as caught:
        Heavy([p]).step()
    assert message(caught) == (
        f"Heavy: a gradient is not like its parameter\n  parameter: float64[2] on {HERE}\n  gradient: float64[1] on {HERE}"
    )


def test_gradient_of_another_dtype_is_refused() -> None:
    p = parameter(1.0)
    p.grad = Tensor([1.0])
    with pytest.raises(DtypeError, match=r"^Heavy: a gradient is not like its parameter"):
        Heavy([p]).step()


def test_update_of_another_shape_is_refused() -> None:
    class Growing(optim.Optimizer):
        def update(self, p: Tensor, g: Tensor, state: optim.State, hyper: optim.Hyper) -> tuple[Tensor, optim.State]:
            return ndl.stack(p, g), state

    with pytest.raises(ShapeError) as caught:
        Growing([parameter(1.0, grad=1.0)], 0.1).step()
    assert message(caught) == (
        f"Growing: update gives a value that is not like the old\n  old: float64[1] on {HERE}\n  new: float64[2, 1] on {HERE}"
    )


def test_update_with_another_state_is_refused() -> None:
    class Forgetful(Heavy):
        def update(self, p: Tensor, g: Tensor, state: optim.State, hyper: optim.Hyper) -> tuple[Tensor, optim.State]:
            return p, {"v": g}

    with pytest.raises(StateError) as caught:
        Forgetful([parameter(1.0, grad=1.0)]).step()
    assert message(caught) == "Forgetful: update gives a state with other entries than init\n  init: u\n  update: v"


def test_optimizer_without_update_cannot_be_made() -> None:
    class Unfinished(optim.Optimizer):
        pass

    with pytest.raises(TypeError, match="update"):
        Unfinished([parameter(1.0)], 0.1)  # type: ignore[abstract]


# -- saving ---------------------------------------------------------------------------------------------------------------


def stepped(**hyper: Any) -> Heavy:
    """An optimizer of one float64[1] and one float32[2] parameter, after a step."""
    optimizer = Heavy([parameter(1.0, grad=1.0), parameter(1.0, 2.0, dtype="float32", grad=2.0)], **hyper)
    optimizer.step()
    return optimizer


def test_state_dict_holds_all_that_decides_how_training_goes_on() -> None:
    state = stepped(lr=0.25).state_dict()
    assert state["optimizer"] == "Heavy"
    assert state["step"].item() == 1.0
    (group,) = state["groups"]
    assert (group["lr"].item(), group["beta"], group["parameters"]) == (0.25, 0.5, 2)
    assert [entry["u"].tolist() for entry in state["parameters"]] == [[1.0], [2.0, 2.0]]


def test_state_goes_through_a_checkpoint(tmp_path: Any) -> None:
    one, other = stepped(lr=0.25), stepped(lr=1.0)
    one.step()
    checkpoint.save(tmp_path / "state.safetensors", one.state_dict())
    other.load_state_dict(checkpoint.load(tmp_path / "state.safetensors"))
    assert other.lr == 0.25
    assert other.state_dict()["step"].item() == 2.0
    for mine, theirs in zip(one.groups[0].states, other.groups[0].states, strict=True):
        assert mine["u"].numpy().tobytes() == theirs["u"].numpy().tobytes()


def test_loading_assigns_to_the_tensors_that_a_compiled_step_knows() -> None:
    optimizer = stepped()
    before = optimizer.groups[0].states[0]["u"]
    optimizer.load_state_dict(stepped().state_dict())
    assert optimizer.groups[0].states[0]["u"] is before


def test_loaded_state_is_not_shared() -> None:
    one, other = stepped(), stepped()
    other.load_state_dict(one.state_dict())
    other.step()
    assert one.groups[0].states[0]["u"].tolist() == [1.0]


def test_schedule_goes_on_where_it_was() -> None:
    one, other = stepped(lr=optim.StepDecay(1.0, every=1)), stepped(lr=optim.StepDecay(1.0, every=1))
    one.step()
    other.load_state_dict(one.state_dict())
    assert other.lr == pytest.approx(0.01)


def test_state_that_does_not_fit_is_listed_and_nothing_loaded() -> None:
    optimizer = stepped(lr=0.25)
    state = stepped(lr=0.5).state_dict()
    state["optimizer"] = "Light"
    state["step"] = 7
    state["groups"][0]["beta"] = 0.9
    state["groups"][0]["gamma"] = 1.0
    state["parameters"][0] = {"u": Tensor([1.0])}
    state["parameters"][1] = {"v": Tensor([1.0, 2.0])}
    state["parameters"].append({})
    before = optimizer.state_dict()
    with pytest.raises(StateError) as caught:
        optimizer.load_state_dict(state)
    assert message(caught) == (
        "Heavy: the state does not fit, nothing was loaded\n"
        "  optimizer: 'Heavy' expected, 'Light' found\n"
        f"  step: float64[] on {HERE} expected, 7 found\n"
        "  groups.0.beta: 0.5 expected, 0.9 found\n"
        "  groups.0.gamma: unexpected\n"
        f"  parameters.0.u: float64[1] on {HERE} expected, float32[1] on {HERE} found\n"
        "  parameters.1.u: missing\n"
        "  parameters.1.v: unexpected\n"
        "  parameters.2: unexpected"
    )
    after = optimizer.state_dict()
    assert optimizer.lr == 0.25
    assert after["step"].item() == before["step"].item()


def test_state_with_a_number_does_not_fit_a_schedule() -> None:
    with pytest.raises(StateError, match=r"groups\.0\.lr: unexpected"):
        stepped(lr=optim.Constant(0.1)).load_state_dict(stepped(lr=0.1).state_dict())


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(StateError, match="a dict expected, a list found"):
        stepped().load_state_dict([])  # type: ignore[arg-type]


def test_repr_shows_groups() -> None:
    ps = [parameter(1.0), parameter(2.0), parameter(3.0)]
    optimizer = Heavy([{"params": ps[:2], "lr": 0.5}, {"params": ps[2:]}], lr=optim.Constant(0.1))
    assert repr(optimizer) == "Heavy(\n  0: 2 parameters, lr=0.5, beta=0.5\n  1: 1 parameters, lr=Constant(lr=0.1), beta=0.5\n)"


# -- clipping -------------------------------------------------------------------------------------------------------------


def test_clip_grad_norm_scales_all_gradients_together() -> None:
    p, q, r = parameter(0.0, grad=3.0), parameter(0.0, grad=4.0), parameter(0.0)
    assert optim.clip_grad_norm([p, q, r], 1.0).item() == 5.0
    assert p.grad is not None
    assert q.grad is not None
    assert [p.grad.item(), q.grad.item()] == pytest.approx([0.6, 0.8])
    assert r.grad is None


def test_clip_grad_norm_leaves_gradients_within_it_bit_for_bit() -> None:
    g = np.random.default_rng(0).standard_normal(100)
    p = Tensor(np.zeros(100), requires_grad=True)
    p.grad = Tensor(g)
    assert optim.clip_grad_norm(p, 100.0).item() == pytest.approx(float(np.linalg.norm(g)), rel=1e-14)
    assert p.grad.numpy().tobytes() == g.tobytes()


def test_clip_grad_norm_leaves_the_old_gradient_tensor() -> None:
    p = parameter(0.0, grad=8.0)
    g = p.grad
    assert g is not None
    optim.clip_grad_norm([p], 1.0)
    assert g.item() == 8.0


def test_clip_grad_norm_of_nothing_is_zero() -> None:
    assert optim.clip_grad_norm([parameter(0.0)], 1.0).item() == 0.0
    assert optim.clip_grad_norm([parameter(0.0, grad=0.0)], 0.0).item() == 0.0


@pytest.mark.parametrize("fault", [math.inf, -math.inf, math.nan])
def test_clip_grad_norm_makes_all_gradients_nan_where_one_is_not_finite(fault: float) -> None:
    p, q = parameter(0.0, grad=fault), parameter(0.0, grad=1.0)
    assert not math.isfinite(float(optim.clip_grad_norm([p, q], 1.0)))
    assert p.grad is not None
    assert q.grad is not None
    assert math.isnan(p.grad.item())
    assert math.isnan(q.grad.item())


def test_clip_grad_norm_does_not_overflow_in_float16() -> None:
    p = parameter(0.0, 0.0, dtype="float16", grad=3e4)
    norm = optim.clip_grad_norm([p], 1.0)
    assert p.grad is not None
    assert p.grad.dtype is ndl.float16
    assert norm.item() == pytest.approx(3e4 * math.sqrt(2), rel=1e-3)
    assert p.grad.tolist() == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-3)


def test_clip_grad_value_limits_every_element() -> None:
    p = Tensor([0.0] * 4, requires_grad=True)
    p.grad = Tensor([-3.0, 0.25, 3.0, math.nan])
    optim.clip_grad_value([p], 0.5)
    assert p.grad.tolist()[:3] == [-0.5, 0.25, 0.5]
    assert math.isnan(p.grad.tolist()[3])


def test_clipped_gradients_are_free_of_any_graph() -> None:
    p, x = parameter(0.0), parameter(3.0)
    p.grad = x * x
    optim.clip_grad_norm([p], 1.0)
    assert not p.grad.requires_grad
    p.grad = x * x
    optim.clip_grad_value([p], 1.0)
    assert not p.grad.requires_grad


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^clip_grad_norm: max_norm must be a number in \[0, inf\), not -1"):
        optim.clip_grad_norm([parameter(0.0)], -1)
    with pytest.raises(ArgumentError, match=r"^clip_grad_value: value must be a number in \[0, inf\), not nan"):
        optim.clip_grad_value([parameter(0.0)], math.nan)


# -- optimizers by name -----------------------------------------------------------------------------------------------------

PLUGIN = (
    HEAD
    + """
from needle_core.optim import Optimizer

class Wanted(Optimizer):
    def __init__(self, params, lr=0.5):
        super().__init__(params, lr)

    def update(self, p, g, state, hyper):
        return p - hyper.lr * g, state

@hookimpl
def needle_register_optimizers(registrar):
    registrar.optimizer(Wanted)
"""
)


def test_name_gives_the_class_of_an_installed_plugin(site: Site) -> None:
    site.install("needle-wanted", of("needle_wanted", group="optimizers", name="Wanted"), PLUGIN)
    p = parameter(1.0, grad=1.0)
    optim.Wanted([p]).step()
    assert p.item() == 0.5
    assert "Wanted" in dir(optim)


def test_name_can_be_imported(site: Site) -> None:
    site.install("needle-wanted", of("needle_wanted", group="optimizers", name="Wanted"), PLUGIN)
    from needle_core.optim import Wanted

    assert Wanted.__name__ == "Wanted"


def test_unknown_name_is_an_attribute_error_that_says_what_is_installed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("needle-wanted", of("needle_wanted", group="optimizers", name="Wanted"), PLUGIN)
    monkeypatch.setenv("NEEDLE_PLUGINS", "needle-wanted,numpy")
    with pytest.raises(AttributeError) as caught:
        optim.Unwanted  # noqa: B018
    assert message(caught) == "no optimizer is called 'Unwanted'\n  installed: Wanted"
    assert caught.value.name == "Unwanted"


def test_unknown_name_without_any_plugin_says_what_to_install(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_PLUGINS", "numpy")
    with pytest.raises(AttributeError, match="`pip install needle-optimizers` brings the usual ones"):
        optim.Unwanted  # noqa: B018


def test_broken_plugin_is_raised_only_when_its_name_is_wanted(site: Site) -> None:
    site.install("needle-broken", of("needle_broken", group="optimizers", name="Broken"), "1 / 0")
    assert "Broken" in dir(optim)
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        optim.Broken  # noqa: B018


def test_private_names_ask_no_plugin(site: Site) -> None:
    with pytest.raises(AttributeError):
        optim.__path__  # noqa: B018
