"""A TensorTuple: a tuple of tensors that is added element by element, a tree, and a place for Parameters in a Module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn, tree
from needle_core.errors import ArgumentError, BoundsError
from needle_extra_ops import TensorTuple, make_tuple, tuple_get_item


def pair() -> TensorTuple:
    return TensorTuple([ndl.Tensor([1.0, 2.0]), ndl.Tensor([[3.0]])])


def values(value: TensorTuple) -> list[list[float]]:
    return [np.ravel(t.numpy()).tolist() for t in tree.flatten(value)[0]]


# -- as a tuple -------------------------------------------------------------------------------------------------------------


def test_indices_length_and_iteration_are_those_of_a_tuple() -> None:
    x, y = ndl.Tensor(1.0), ndl.Tensor(2.0)
    value = TensorTuple([x, y])
    assert value[0] is x
    assert value[-1] is y
    assert len(value) == 2
    assert list(value) == [x, y]
    assert isinstance(value, tuple)
    a, b = value
    assert (a, b) == (x, y)


def test_a_slice_is_a_tensor_tuple() -> None:
    x, y, z = map(ndl.Tensor, (1.0, 2.0, 3.0))
    part = TensorTuple([x, y, z])[::2]
    assert type(part) is TensorTuple
    assert list(part) == [x, z]


def test_any_iterable_of_tensors_makes_one_and_none_an_empty_one() -> None:
    assert values(TensorTuple(ndl.Tensor(float(i)) for i in range(3))) == [[0.0], [1.0], [2.0]]
    assert len(TensorTuple()) == len(TensorTuple([])) == 0
    assert values(make_tuple(ndl.Tensor(1.0), ndl.Tensor(2.0))) == [[1.0], [2.0]]


def test_an_index_out_of_range_is_refused() -> None:
    with pytest.raises(BoundsError, match="index 2 is out of range for 2 elements"):
        pair()[2]
    with pytest.raises(BoundsError, match="index -3 is out of range"):
        tuple_get_item(pair(), -3)


def test_the_forms_of_the_course_build_and_take_apart() -> None:
    x, y = ndl.Tensor(1.0), ndl.Tensor(2.0)
    assert tuple_get_item(make_tuple(x, y), 1) is y


@pytest.mark.parametrize("junk", [1, "x", None, [1.0], np.ones(2), (1.0,)])
def test_elements_that_are_no_tensors_are_refused_by_position(junk: object) -> None:
    with pytest.raises(ArgumentError, match="TensorTuple: holds tensors and TensorTuples, but element 1 is"):
        TensorTuple([ndl.Tensor(1.0), junk])


@pytest.mark.parametrize("junk", [ndl.Tensor([1.0, 2.0]), 3, None])
def test_what_is_no_sequence_is_refused(junk: object) -> None:
    with pytest.raises(ArgumentError, match="takes a sequence of tensors"):
        TensorTuple(junk)  # type: ignore[arg-type]


def test_its_text_shows_its_tensors() -> None:
    x = ndl.Tensor([1.0])
    assert repr(TensorTuple([x, TensorTuple([x])])) == f"TensorTuple([{x!r}, TensorTuple([{x!r}])])"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_and_pickles_are_tensor_tuples(duplicate: object) -> None:
    value = TensorTuple([*pair(), pair()])
    twin = duplicate(value)  # type: ignore[operator]
    assert type(twin) is TensorTuple
    assert type(twin[2]) is TensorTuple
    assert values(twin) == values(value)


# -- addition and detach ----------------------------------------------------------------------------------------------------


def test_addition_is_element_by_element() -> None:
    total = pair() + pair()
    assert type(total) is TensorTuple
    assert values(total) == [[2.0, 4.0], [6.0]]


def test_nested_ones_are_added_in_depth_and_empty_ones_to_an_empty_one() -> None:
    nested = TensorTuple([ndl.Tensor(5.0), pair()])
    assert values(nested + nested) == [[10.0], [2.0, 4.0], [6.0]]
    assert type((nested + nested)[1]) is TensorTuple
    assert TensorTuple() + TensorTuple() == TensorTuple()


@pytest.mark.parametrize(
    "other", [1, None, ndl.Tensor(1.0), (ndl.Tensor(1.0), ndl.Tensor(2.0)), TensorTuple(), TensorTuple([*pair(), pair()])]
)
def test_addition_to_anything_else_is_refused(other: object) -> None:
    for add in (lambda: pair() + other, lambda: other + pair()):
        with pytest.raises(ArgumentError, match=r"takes two TensorTuples of the same structure(.|\n)*TensorTuple\(\*, \*\)"):
            add()


def test_it_does_not_repeat_like_a_tuple() -> None:
    for repeat in (lambda: pair() * 2, lambda: 2 * pair()):
        with pytest.raises(ArgumentError, match="does not repeat like a tuple"):
            repeat()


def test_detach_keeps_the_values_and_leaves_the_graph() -> None:
    x = ndl.Tensor([1.0, 2.0], requires_grad=True)
    value = TensorTuple([x * 2, TensorTuple([x])])
    detached = value.detach()
    assert values(detached) == [[2.0, 4.0], [1.0, 2.0]]
    assert type(detached[1]) is TensorTuple
    assert not any(t.requires_grad for t in tree.flatten(detached)[0])


# -- in ops and gradients ---------------------------------------------------------------------------------------------------


def test_ops_of_any_number_of_tensors_take_one() -> None:
    value = TensorTuple([ndl.Tensor([1.0]), ndl.Tensor([2.0])])
    assert ndl.concat(value).numpy().tolist() == [1.0, 2.0]
    assert ndl.stack(value).numpy().tolist() == [[1.0], [2.0]]


@ndl.composite(lambda *specs: (TensorTuple(specs), {}))
def doubled(*tensors: ndl.Tensor) -> TensorTuple:
    return TensorTuple(2 * t for t in tensors)


def test_an_op_takes_one_and_returns_one() -> None:
    x = ndl.Tensor([1.0, 2.0], requires_grad=True)
    value = doubled(TensorTuple([x, x * x]))
    assert type(value) is TensorTuple
    assert values(value) == [[2.0, 4.0], [2.0, 8.0]]
    (value[0] + value[1]).sum().backward()
    assert x.grad is not None
    assert x.grad.numpy().tolist() == [6.0, 10.0]  # 2 + 4 x


def test_grad_takes_one_and_returns_one() -> None:
    x, y = ndl.Tensor([1.0, 2.0]), ndl.Tensor([3.0, 5.0])
    gradient = ndl.grad(lambda v: (v[0] * v[1]).sum())(TensorTuple([x, y]))
    assert type(gradient) is TensorTuple
    assert values(gradient) == [[3.0, 5.0], [1.0, 2.0]]


def test_grad_of_a_sum_of_two_reaches_every_tensor() -> None:
    def f(a: TensorTuple, b: TensorTuple) -> ndl.Tensor:
        total = a + b
        return (total[0] * total[0]).sum() + 3 * total[1].sum()

    ga, gb = ndl.grad(f, argnums=(0, 1))(pair(), pair())
    assert values(ga) == values(gb) == [[4.0, 8.0], [3.0]]  # 2 (a + b), and 3


def test_grad_differentiates_again() -> None:
    def cube(v: TensorTuple) -> ndl.Tensor:
        return v[0] ** 3 * v[1]

    def slope(v: TensorTuple) -> ndl.Tensor:
        return ndl.grad(cube)(v)[0]  # 3 x^2 y

    assert values(ndl.grad(slope)(TensorTuple([ndl.Tensor(2.0), ndl.Tensor(5.0)]))) == [[60.0], [12.0]]  # 6 x y, 3 x^2


def test_integers_in_it_get_no_gradient() -> None:
    gradient = ndl.grad(lambda v: v[0] * v[1])(TensorTuple([ndl.Tensor(2.0), ndl.Tensor(3)]))
    assert type(gradient) is TensorTuple
    assert gradient[0].item() == 3.0
    assert gradient[1] is None


def test_vjp_takes_cotangents_in_one() -> None:
    value, pull = ndl.vjp(lambda x: TensorTuple([x * 2, x * 3]), ndl.Tensor(1.0))
    assert values(value) == [[2.0], [3.0]]
    (gradient,) = pull(TensorTuple([ndl.Tensor(10.0), ndl.Tensor(1.0)]))
    assert gradient.item() == 23.0


def test_backward_reaches_leaves_behind_one() -> None:
    x = ndl.Tensor([1.0, 2.0], requires_grad=True)
    value = TensorTuple([x * 2, x * 3]) + TensorTuple([x, x])
    (value[0] + value[1]).sum().backward()
    assert x.grad is not None
    assert x.grad.numpy().tolist() == [7.0, 7.0]


# -- as a tree, and in Modules ----------------------------------------------------------------------------------------------


def test_a_tree_of_anything_has_its_form() -> None:
    shapes = tree.map(lambda t: list(t.shape), pair())
    assert type(shapes) is TensorTuple
    assert [*shapes] == [[2], [1, 1]]


class Affine(nn.Module):
    def __init__(self, scale: float, shift: float) -> None:
        self.pair = TensorTuple([nn.Parameter([scale]), TensorTuple([nn.Parameter([shift])])])

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        return x * self.pair[0] + self.pair[1][0]


def test_parameters_in_it_are_found_under_dotted_names() -> None:
    model = Affine(2.0, 3.0)
    assert [name for name, _ in model.named_parameters()] == ["pair.0", "pair.1.0"]
    assert model.parameters()[0] is model.pair[0]


def test_parameters_in_it_are_trained_in_place() -> None:
    model = Affine(2.0, 3.0)
    model(ndl.Tensor([10.0])).sum().backward()
    ndl.optim.SGD(model.parameters(), lr=0.1).step()
    assert values(model.pair) == [[1.0], [pytest.approx(2.9)]]


def test_parameters_in_it_are_saved_and_loaded(tmp_path: Path) -> None:
    ndl.checkpoint.save(tmp_path / "affine.safetensors", Affine(2.0, 3.0).state_dict())
    model = Affine(0.0, 0.0)
    model.load_state_dict(ndl.checkpoint.load(tmp_path / "affine.safetensors"))
    assert values(model.pair) == [[2.0], [3.0]]


def test_the_gradient_of_a_module_has_one_where_the_module_does() -> None:
    model = Affine(2.0, 3.0)
    gradient = ndl.grad(lambda m: m(ndl.Tensor([10.0])).sum())(model)
    assert type(gradient.pair) is TensorTuple
    assert values(gradient.pair) == [[10.0], [1.0]]
    moved = tree.map(lambda p, g: p - g, model, gradient)
    assert values(moved.pair) == [[-8.0], [2.0]]


def test_a_module_of_anything_has_one_where_the_module_does() -> None:
    shapes = tree.map(lambda p: p.shape, Affine(2.0, 3.0))
    assert [*shapes.pair[1]] == [(1,)]
