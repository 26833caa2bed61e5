"""Modules: what they find, save, load and move; their text; and Modules as trees."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn, tree
from needle_core.errors import ArgumentError, StateError
from needle_core.nn import Buffer, Module, Parameter
from needle_core.spec import Device
from needle_core.tensor import Tensor

HERE = ndl.default_device()


class ScaleAdd(Module):
    def __init__(self, s: float = 1.0, b: float = 0.0) -> None:
        self.s, self.b = Parameter([s]), Parameter([b])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.s + self.b


class MultiPathScaleAdd(Module):
    def __init__(self) -> None:
        self.path0, self.path1 = ScaleAdd(2.0, 1.0), ScaleAdd(3.0, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.path0(x) + self.path1(x)
        return y


class Pair(NamedTuple):
    first: Any
    second: Any


class Everything(Module):
    """Parameters and modules in every place that is searched, and things that are none."""

    def __init__(self) -> None:
        self.body = [ScaleAdd(), (Parameter([2.0]), {"deep": Parameter([3.0])})]
        self.heads = {"left": ScaleAdd(), "right": Pair(Parameter([4.0]), None)}
        self.own = self.again = Parameter([1.0])
        self.state = [Buffer([7.0])]
        self.constant = Tensor([9.0], requires_grad=True)
        self.text, self.number, self.f = "weight", 3, max


def names(found: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in found]


def values(tensors: Any) -> list[Any]:
    return [t.tolist() for t in tensors]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def elsewhere() -> Device:
    """A second device of the default backend."""
    return Device("elsewhere", ndl.default_device().backend)


# -- parameters and buffers ---------------------------------------------------------------------------------------------


def test_parameter_requires_gradients_and_shares_the_buffer_of_a_tensor() -> None:
    x = Tensor([1.0, 2.0])
    p = Parameter(x)
    assert p.requires_grad
    assert p.buffer is x.buffer
    assert not Parameter(x, requires_grad=False).requires_grad


def test_parameter_is_made_of_arrays_and_numbers() -> None:
    assert Parameter(np.zeros((2, 3))).dtype is ndl.float64
    assert Parameter([1, 2], dtype="float32").tolist() == [1.0, 2.0]


def test_repr_says_which_kind_of_tensor() -> None:
    assert repr(Parameter([1.0, 2.0])) == f"Parameter([1., 2.], float32[2] on {HERE}, requires_grad=True)"
    assert repr(Buffer([1.0])) == f"Buffer([1.], float32[1] on {HERE})"


def test_module_without_forward_says_what_is_missing() -> None:
    class Empty(Module):
        pass

    with pytest.raises(NotImplementedError, match=r"^Empty must define forward\(self, \.\.\.\)$"):
        Empty()(1)


# -- discovery ----------------------------------------------------------------------------------------------------------


def test_parameters_are_found_in_attributes_lists_tuples_dicts_and_modules() -> None:
    found = Everything().named_parameters()
    assert names(found) == [
        "body.1.0",
        "body.1.1.deep",
        "heads.right.0",
        "own",
        "body.0.s",
        "body.0.b",
        "heads.left.s",
        "heads.left.b",
    ]
    assert values(p for _, p in found) == [[2.0], [3.0], [4.0], [1.0], [1.0], [0.0], [1.0], [0.0]]


def test_buffers_are_found_and_are_no_parameters() -> None:
    everything = Everything()
    assert names(everything.named_buffers()) == ["state.0"]
    assert values(everything.buffers()) == [[7.0]]
    assert not any(isinstance(p, Buffer) for p in everything.parameters())


def test_shared_parameters_and_modules_are_found_once_under_their_first_name() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
            self.decoder.weight = self.encoder.weight
            self.again = self.encoder

    tied = Tied()
    assert names(tied.named_parameters()) == ["encoder.weight", "encoder.bias", "decoder.bias"]
    assert names(tied.named_modules()) == ["", "encoder", "decoder"]
    assert list(tied.state_dict()) == ["encoder.weight", "encoder.bias", "decoder.bias"]


def test_a_module_that_leads_back_to_itself_is_found_once() -> None:
    parent, child = ScaleAdd(), ScaleAdd()
    parent.child, child.parent = child, parent
    assert names(parent.named_modules()) == ["", "child"]
    assert names(parent.named_parameters()) == ["s", "b", "child.s", "child.b"]
    assert repr(parent) == "ScaleAdd(\n  (child): ScaleAdd(\n    (parent): ...\n  )\n)"


def test_modules_and_children() -> None:
    everything = Everything()
    assert names(everything.named_modules()) == ["", "body.0", "heads.left"]
    assert everything.children() == [everything.body[0], everything.heads["left"]]
    model = nn.Sequential(nn.Residual(mlp()))
    assert names(model.named_modules()) == ["", "0", "0.fn", "0.fn.0", "0.fn.1", "0.fn.2"]
    assert names(model.named_children()) == ["0"]
    assert names(model.named_parameters()) == ["0.fn.0.weight", "0.fn.0.bias", "0.fn.2.weight", "0.fn.2.bias"]


def test_recursive_parameters_of_the_lecture() -> None:
    model = MultiPathScaleAdd()
    assert values(model.parameters()) == [[2.0], [1.0], [3.0], [-1.0]]
    assert model(Tensor([2.0])).tolist() == [2 * 2 + 1 + 2 * 3 - 1]


def test_two_tensors_of_one_name_are_refused() -> None:
    class Clash(Module):
        def __init__(self) -> None:
            self.d = {1: Parameter([1.0]), "1": Parameter([2.0])}

    with pytest.raises(ArgumentError) as caught:
        Clash().parameters()
    assert str(caught.value) == "two tensors of Clash are called 'd.1'\n  hint: rename a key of a dict"


def test_a_plain_tensor_does_not_take_the_place_of_a_parameter_or_buffer() -> None:
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ArgumentError) as caught:
        layer.running_mean = 0.5 * layer.running_mean  # type: ignore[assignment]
    assert str(caught.value) == (
        "BatchNorm1d.running_mean is a Buffer; a plain tensor in its place would neither be trained nor saved\n"
        f"  old: float32[2] on {HERE}\n"
        f"  new: float32[2] on {HERE}\n"
        "  hint: self.running_mean.data = ... gives it a new value"
    )
    layer.weight = Parameter([2.0, 2.0])
    assert layer.parameters()[0].tolist() == [2.0, 2.0]


# -- modes, functions, devices ------------------------------------------------------------------------------------------


def test_train_and_eval_reach_all_modules_and_return_the_module() -> None:
    model = nn.Sequential(nn.Residual(nn.Dropout()), nn.Identity())
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    assert model.train() is model
    assert all(m.training for m in model.modules())


def test_apply_calls_inner_modules_first() -> None:
    model, seen = nn.Sequential(nn.Residual(nn.Identity())), []
    assert model.apply(lambda m: seen.append(type(m).__name__)) is model
    assert seen == ["Identity", "Residual", "Sequential"]


def test_to_moves_parameters_gradients_and_buffers_in_place() -> None:
    model, there = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), elsewhere()
    model(Tensor(np.ones((4, 2), np.float32) * [[0], [1], [2], [3]])).sum().backward()
    before, objects = model.state_dict(), [*model.parameters(), *model.buffers()]
    assert model.to(there) is model
    assert [*map(id, model.parameters()), *map(id, model.buffers())] == list(map(id, objects))
    assert {t.device for t in objects} == {there}
    assert {p.grad.device for p in model.parameters() if p.grad is not None} == {there}
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())
    assert model(Tensor(np.eye(2, dtype=np.float32), device=there)).device is there


# -- state --------------------------------------------------------------------------------------------------------------


def test_state_dict_holds_parameters_and_buffers_by_name_without_a_graph() -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    assert {name: t.shape for name, t in state.items()} == {
        "0.weight": (2, 3),
        "0.bias": (3,),
        "1.weight": (3,),
        "1.bias": (3,),
        "1.running_mean": (3,),
        "1.running_var": (3,),
    }
    assert not any(t.requires_grad or isinstance(t, Parameter) for t in state.values())


def test_state_dict_keeps_the_values_of_its_time() -> None:
    layer = ScaleAdd(2.0)
    state = layer.state_dict()
    layer.s.data = layer.s - 1.0
    assert state["s"].tolist() == [2.0]


@pytest.mark.parametrize("as_arrays", [False, True])
def test_load_state_dict_restores_every_value_in_the_same_objects(as_arrays: bool) -> None:
    source, target = mlp(), mlp()
    objects = target.parameters()
    state: dict[str, Any] = source.state_dict()
    state = {name: t.numpy() for name, t in state.items()} if as_arrays else state
    assert target.load_state_dict(state) == ([], [])
    assert all(a is b for a, b in zip(objects, target.parameters(), strict=True))
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert b.requires_grad
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_load_state_dict_copies_to_the_device_of_the_parameter() -> None:
    target, there = ScaleAdd(), elsewhere()
    target.to(there).load_state_dict(ScaleAdd(5.0).state_dict())
    assert target.s.device is there
    assert target.s.tolist() == [5.0]


def test_load_state_dict_lists_every_fault_and_loads_nothing() -> None:
    model = mlp()
    before = {name: t.tolist() for name, t in model.state_dict().items()}
    state = {name: t * 0 for name, t in model.state_dict().items()}
    del state["0.weight"], state["2.bias"]
    state["0.bias"] = Tensor(np.zeros((1, 3), np.float32))
    state["2.weight"] = Tensor(np.zeros((3, 2)))
    state["9.weight"] = Tensor([0.0])
    with pytest.raises(StateError) as caught:
        model.load_state_dict(state)
    assert str(caught.value) == (
        "the state does not fit Sequential; nothing was loaded\n"
        "  missing: 0.weight, 2.bias\n"
        "  unexpected: 9.weight\n"
        "  misshapen: 0.bias is float32[1, 3], not float32[3]; 2.weight is float64[3, 2], not float32[3, 2]"
    )
    assert {name: t.tolist() for name, t in model.state_dict().items()} == before


def test_load_state_dict_not_strict_reports_what_it_left_out() -> None:
    model = ScaleAdd()
    assert model.load_state_dict({"s": Tensor([4.0]), "t": Tensor([5.0])}, strict=False) == (["b"], ["t"])
    assert (model.s.tolist(), model.b.tolist()) == ([4.0], [0.0])


def test_load_state_dict_not_strict_still_refuses_other_shapes() -> None:
    model = ScaleAdd(3.0)
    with pytest.raises(StateError, match="misshapen: b is float32"):
        model.load_state_dict({"s": Tensor([4.0]), "b": Tensor([5.0, 6.0])}, strict=False)
    assert model.s.tolist() == [3.0]


# -- text ---------------------------------------------------------------------------------------------------------------


def test_repr_is_a_tree_of_configured_layers() -> None:
    model = nn.Sequential(nn.Linear(784, 100), nn.Residual(nn.Sequential(nn.BatchNorm1d(100), nn.Dropout(0.1))), nn.ReLU())
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(784, 100)\n"
        "  (1): Residual(\n"
        "    (fn): Sequential(\n"
        "      (0): BatchNorm1d(100, eps=1e-05, momentum=0.1)\n"
        "      (1): Dropout(0.1)\n"
        "    )\n"
        "  )\n"
        "  (2): ReLU()\n"
        ")"
    )


def test_repr_shows_configuration_beside_children() -> None:
    class Block(Module):
        def __init__(self) -> None:
            self.heads = [nn.Identity()]

        def extra_repr(self) -> str:
            return "heads=1"

    assert repr(Block()) == "Block(heads=1\n  (heads.0): Identity()\n)"


def test_summary_counts_parameters_and_bytes() -> None:
    assert mlp().summary() == (
        "name  layer         parameters               count\n"
        "      Sequential\n"
        "0     Linear(4, 3)  weight [4, 3], bias [3]     15\n"
        "1     ReLU()\n"
        "2     Linear(3, 2)  weight [3, 2], bias [2]      8\n"
        "23 parameters, 92 bytes"
    )


def test_summary_with_inputs_shows_the_shapes_that_modules_return() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad = False
    assert model.summary(np.zeros((5, 4), np.float32)) == (
        "name  layer                                    parameters               count  output\n"
        "      Sequential                                                               [5, 3]\n"
        "0     Linear(4, 3)                             weight [4, 3], bias [3]     15  [5, 3]\n"
        "1     BatchNorm1d(3, eps=1e-05, momentum=0.1)  weight [3], bias [3]         6  [5, 3]\n"
        "21 parameters, 84 bytes; 12 of them frozen; buffers of 24 bytes"
    )


def test_summary_counts_shared_parameters_once_and_shows_what_is_not_called() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return y, y.sum(axis=0)

    assert Tied().summary(Tensor([[1.0, 2.0]])) == (
        "name  layer                     parameters         count  output\n"
        "      Tied                                                [1, 2], [2]\n"
        "a     Linear(2, 2, bias=False)  weight [2, 2]          4  [1, 2]\n"
        "b     Linear(2, 2, bias=False)  weight = a.weight      0  not called\n"
        "4 parameters, 16 bytes"
    )


def test_summary_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Identity())
    model[1].eval()
    before = [dict(vars(m)) for m in model.modules()]
    model.summary(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert [dict(vars(m)) for m in model.modules()] == before
    assert [m.training for m in model] == [True, False, True]
    assert model.buffers()[0].tolist() == [0.0, 0.0]
    with pytest.raises(ndl.errors.ShapeError):
        model.summary(Tensor([[1.0, 2.0, 3.0]]))
    assert [dict(vars(m)) for m in model.modules()] == before


# -- copies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent_and_keep_what_is_shared(copied: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    twin = copied(model.eval())
    assert repr(twin) == repr(model)
    assert not twin.training
    assert names(twin.named_parameters()) == names(model.named_parameters())
    assert [type(t) for t in (twin[0].weight, twin[1].running_var)] == [Parameter, Buffer]
    assert all(p.requires_grad for p in twin.parameters())
    np.testing.assert_array_equal(twin[0].weight.numpy(), model.parameters()[0].numpy())
    twin[0].weight.data = twin[0].weight * 0 + 1
    assert np.all(twin[2].weight.numpy() == 1)
    assert not np.any(model.parameters()[0].numpy() == 1)


# -- trees --------------------------------------------------------------------------------------------------------------


def test_leaves_are_the_parameters_each_once() -> None:
    model = mlp()
    model[2].bias = model[2].bias
    leaves, structure = tree.flatten(model)
    assert all(a is b for a, b in zip(leaves, model.parameters(), strict=True))
    assert str(structure) == "Sequential(*, *, *, *)"
    shared = nn.Sequential(model[0], model[0])
    assert len(tree.flatten(shared)[0]) == 2


def test_structures_are_equal_and_hash_equal_for_the_same_architecture() -> None:
    first, second = tree.flatten(mlp())[1], tree.flatten(mlp().eval())[1]
    assert first == second
    assert hash(first) == hash(second)
    assert first != tree.flatten(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))[1]
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    untied = tree.flatten(tied)[1]
    tied[1].weight = tied[0].weight
    assert tree.flatten(tied)[1] != untied


def test_unflatten_puts_leaves_in_all_places_and_leaves_the_original_alone() -> None:
    original = Everything()
    before = values(original.parameters())
    leaves, structure = tree.flatten(original)
    other = tree.unflatten(structure, [Tensor([float(i)]) for i in range(len(leaves))])
    assert type(other) is Everything
    assert values(original.parameters()) == before
    assert values(other.parameters()) == [[float(i)] for i in range(len(leaves))]
    assert other.again is other.own
    assert other.state[0] is original.state[0]
    assert other.constant is original.constant
    assert isinstance(other.heads["right"], Pair)
    assert other.body[0] is not original.body[0]
    assert tree.flatten(other)[1] == structure


def test_leaves_may_be_anything() -> None:
    shapes = tree.map(lambda p: p.shape, mlp())
    assert (shapes[0].weight, shapes[2].bias) == ((4, 3), (2,))
    nothing = tree.map(lambda p: 0.0, mlp())  # one object in all places
    assert tree.flatten(nothing) == ([0.0] * 4, tree.flatten(mlp())[1])


def test_a_part_of_an_unflattened_module_is_a_tree_too() -> None:
    model = nn.Sequential(nn.Residual(nn.Linear(2, 2)))
    doubled = tree.map(lambda p: p * 2, model)
    total = tree.map(lambda a, b: a + b, model[0], doubled[0])
    np.testing.assert_array_equal(total.fn.weight.numpy(), 3 * model.parameters()[0].numpy())


def test_grad_of_a_model_is_a_model_of_gradients() -> None:
    model, x, y = MultiPathScaleAdd(), Tensor([1.0, 2.0]), Tensor([0.0, 0.0])
    gradients = ndl.grad(lambda m, x, y: nn.L2Loss(reduction="sum")(m(x), y))(model, x, y)
    prediction = np.array([5.0, 10.0])  # 5 x + 0
    by_s, by_b = float((2 * prediction * [1.0, 2.0]).sum()), float((2 * prediction).sum())
    assert type(gradients) is MultiPathScaleAdd
    assert {name: g.tolist() for name, g in gradients.named_parameters()} == {
        "path0.s": [by_s],
        "path0.b": [by_b],
        "path1.s": [by_s],
        "path1.b": [by_b],
    }
    assert all(p.grad is None for p in model.parameters())


def test_models_train_as_trees_as_they_do_in_place() -> None:
    x, y = Tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)), Tensor([0, 1, 1])

    def loss(m: Module) -> Tensor:
        value: Tensor = nn.SoftmaxLoss()(m(x), y)
        return value

    in_place = mlp()
    functional: Any = copy.deepcopy(in_place)
    for _ in range(3):
        for p in in_place.parameters():
            p.grad = None
        loss(in_place).backward()
        for p in in_place.parameters():
            assert p.grad is not None
            p.data = p.data - 0.5 * p.grad
        with ndl.no_grad():
            functional = tree.map(lambda p, g: p - 0.5 * g, functional, ndl.grad(loss)(functional))
    for a, b in zip(in_place.parameters(), functional.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not any(p.requires_grad for p in functional.parameters())
    in_place.load_state_dict(functional.state_dict())


def test_running_statistics_move_while_a_gradient_of_the_model_is_taken() -> None:
    model, x = nn.BatchNorm1d(1), Tensor([[1.0], [3.0]])
    ndl.grad(lambda m: m(x).sum())(model)
    assert model.running_mean.tolist() == pytest.approx([0.2])
    assert isinstance(model.running_mean, Buffer)
