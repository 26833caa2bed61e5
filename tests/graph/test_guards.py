"""What a captured function depends on is seen when it changes, and nothing else is."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import CompileError
from needle_core.graph.guards import Guards

FLAG = 3
SETTINGS: dict[Any, Any] = {"scale": 2.0}


def _reads_flag() -> int:
    return FLAG


def _helper() -> int:
    return 1


def _calls_helper() -> int:
    return _helper() + _reads_flag()


class Hostile:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __repr__(self) -> str:
        raise AssertionError("shown")


class Trainer:
    rate = 1.0

    def __init__(self, model: Any) -> None:
        self.model, self.scale, self.history, self.losses = model, 2, [], []

    def step(self) -> Any:
        self.losses.append(self.scaled())
        return self.losses

    def scaled(self) -> float:
        return float(self.scale * self.rate)


class Slotted:
    __slots__ = ("scale", "unread")

    def __init__(self) -> None:
        self.scale, self.unread = 1, 1


def _of(value: Any) -> Guards:
    """Guards of a function that closes over `value`."""
    return Guards(lambda: value)


def _only(guards: Guards, path: str, change: str) -> None:
    assert not guards.hold()
    assert guards.changes() == {path: change}


def test_nothing_changed_holds() -> None:
    guards = _of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert guards.hold()
    assert guards.changes() == {}


def test_mode_of_an_inner_module_is_seen_though_it_was_the_default_of_the_class() -> None:
    model = nn.Residual(nn.ReLU())
    guards = _of(model)
    model.fn.training = False
    _only(guards, "value.fn.training", "nothing -> False")


def test_mode_that_changes_back_holds_again() -> None:
    model = nn.ReLU()
    guards = _of(model)
    model.eval()
    _only(guards, "value.training", "nothing -> False")  # of its own; until then it has that of the class
    model.train()
    assert guards.hold()


def test_layer_replaced_in_a_list_is_seen() -> None:
    model = nn.Module()
    model.blocks = [nn.ReLU(), nn.ReLU()]
    guards = _of(model)
    model.blocks[1] = nn.Tanh()
    _only(guards, "value.blocks.1", "ReLU -> Tanh")


def test_parameter_replaced_by_one_of_equal_value_is_seen() -> None:
    model = nn.Module()
    model.s = nn.Parameter([1.0])
    guards = _of(model)
    model.s = nn.Parameter([1.0])
    assert not guards.hold()
    assert list(guards.changes()) == ["value.s"]


def test_new_data_of_a_parameter_is_no_change() -> None:
    model = nn.Linear(2, 2)
    guards = _of(model)
    model.weight.data = model.weight.data + 1.0
    assert guards.hold()


def test_number_replaced_by_an_equal_tensor_is_seen() -> None:
    model = nn.Module()
    model.scale = 2.0
    guards = _of(model)
    model.scale = ndl.Tensor(2.0)
    assert not guards.hold()


def test_hyperparameter_of_a_group_is_seen() -> None:
    p = nn.Parameter([1.0])
    opt = ndl.optim.SGD([p], lr=0.1, momentum=0.5)
    guards = Guards(lambda: opt.step())
    opt.lr = 0.2
    assert guards.hold()
    opt.groups[0].hyper["momentum"] = 0.9
    _only(guards, "opt.groups[0].hyper['momentum']", "0.5 -> 0.9")


def test_slot_of_a_group_is_seen() -> None:
    opt = ndl.optim.SGD([nn.Parameter([1.0])], lr=0.1)
    guards = _of(opt)
    opt.groups[0].params = [nn.Parameter([1.0])]
    assert list(guards.changes()) == ["value.groups[0].params"]
    assert not guards.hold()


def test_closure_variable_is_seen() -> None:
    count = 1
    guards = Guards(lambda: count)
    count = 2
    _only(guards, "count", "1 -> 2")


def test_closure_variable_that_is_gone_is_seen() -> None:
    count = 1
    guards = Guards(lambda: count)  # noqa: F821
    del count
    _only(guards, "count", "1 -> nothing")


def test_global_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(_reads_flag)
    monkeypatch.setitem(globals(), "FLAG", 4)
    _only(guards, "FLAG", "3 -> 4")


def test_global_of_a_function_that_is_called_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(_calls_helper)
    monkeypatch.setitem(globals(), "FLAG", 4)
    _only(guards, "FLAG", "3 -> 4")


def test_function_in_another_ones_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(_calls_helper)
    monkeypatch.setitem(globals(), "_helper", lambda: 2)
    assert not guards.hold()
    assert list(guards.changes()) == ["_helper"]


def test_global_that_is_not_named_is_not_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(_helper)
    monkeypatch.setitem(globals(), "FLAG", 4)
    assert guards.hold()


def test_attribute_of_the_object_whose_method_it_is_is_seen() -> None:
    trainer = Trainer(None)
    guards = Guards(trainer.step)
    trainer.scale = 3
    _only(guards, "self.scale", "2 -> 3")


def test_list_that_the_code_does_not_name_is_not_guarded() -> None:
    trainer = Trainer(None)
    guards = Guards(trainer.step)
    trainer.history.append(1.0)
    assert guards.hold()


def test_list_that_the_code_names_is_seen() -> None:
    trainer = Trainer(None)
    guards = Guards(trainer.step)
    trainer.losses.append(1.0)
    _only(guards, "self.losses[0]", "nothing -> 1.0")


def test_attribute_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(Trainer(None).step)
    monkeypatch.setattr(Trainer, "rate", 0.5)
    _only(guards, "Trainer.rate", "1.0 -> 0.5")


def test_attribute_that_hides_that_of_the_class_is_seen() -> None:
    trainer = Trainer(None)
    guards = Guards(trainer.step)
    trainer.rate = 0.5
    _only(guards, "self.rate", "nothing -> 0.5")


def test_method_in_another_ones_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = Guards(Trainer(None).step)
    monkeypatch.setattr(Trainer, "scaled", lambda self: 0.0)
    assert not guards.hold()


def test_slots_that_the_code_names_are_seen() -> None:
    value = Slotted()
    guards = Guards(lambda: value.scale)
    value.unread = 2
    assert guards.hold()
    value.scale = 2
    _only(guards, "value.scale", "1 -> 2")


def test_arguments_of_a_partial_are_seen() -> None:
    given = functools.partial(lambda a, k: a, [1], k=1)
    guards = Guards(given)
    given.args[0][0] = 2
    given.keywords["k"] = 2
    assert not guards.hold()
    assert guards.changes() == {"args[0][0]": "1 -> 2", "keywords['k']": "1 -> 2"}


def test_default_of_an_argument_is_seen() -> None:
    def step(options: dict[str, int] = {"n": 1}) -> int:  # noqa: B006
        return options["n"]

    guards = Guards(step)
    step.__defaults__[0]["n"] = 2  # type: ignore[index]
    _only(guards, "options['n']", "1 -> 2")


def test_module_that_is_called_is_walked() -> None:
    model = nn.Sequential(nn.ReLU())
    guards = Guards(model)
    model.eval()
    assert set(guards.changes()) == {"self.training", "self.layers.0.training"}


def test_extra_roots_are_walked() -> None:
    model = nn.ReLU()
    guards = Guards(_helper, [model])
    model.eval()
    _only(guards, "extra_roots[0].training", "nothing -> False")


@contextlib.contextmanager
def decorated() -> Iterator[None]:
    yield


@pytest.mark.parametrize("decorator", [functools.lru_cache, ndl.no_grad(), ndl.autocast("bfloat16"), decorated()])
def test_function_behind_a_decorator_is_walked(decorator: Any) -> None:
    count = 1

    @decorator
    def inner() -> int:
        return count

    guards = Guards(lambda: inner())
    count = 2
    _only(guards, "count", "1 -> 2")


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (True, 1.0), (0, False), (0.0, -0.0)])
def test_equal_numbers_of_another_kind_are_told_apart(old: object, new: object) -> None:
    cfg = [old]
    guards = _of(cfg)
    cfg[0] = new
    _only(guards, "value[0]", f"{old} -> {new}")


@pytest.mark.parametrize("value", [math.nan, 0.1, "text", 10**20, (0.1, (2, "x")), np.float64(0.1)])
def test_equal_values_in_other_objects_are_no_change(value: Any) -> None:
    cfg = [value]
    guards = _of(cfg)
    cfg[0] = eval(repr(value), {"nan": float("nan"), "np": np})
    assert cfg[0] is not value or isinstance(value, str)
    assert guards.hold()
    assert guards.changes() == {}


def test_attribute_that_is_deleted_is_seen() -> None:
    model = nn.Module()
    model.bias = None
    guards = _of(model)
    del model.bias
    _only(guards, "value.bias", "None -> nothing")


def test_key_that_is_renamed_is_seen() -> None:
    cfg = {"sum": True}
    guards = _of(cfg)
    cfg["mean"] = cfg.pop("sum")
    assert not guards.hold()
    assert guards.changes() == {"value['sum']": "True -> nothing", "value['mean']": "nothing -> True"}


def test_order_of_a_dict_is_seen() -> None:
    cfg = {"a": 1, "b": 2}
    guards = _of(cfg)
    cfg["a"] = cfg.pop("a")
    _only(guards, "value", "order 'a', 'b' -> 'b', 'a'")


def test_element_that_moves_to_the_next_list_is_seen() -> None:
    lists: list[list[int]] = [[1], [2]]
    guards = _of(lists)
    lists[0].append(lists[1].pop())
    assert guards.changes() == {"value[0][1]": "nothing -> 2", "value[1][0]": "2 -> nothing"}
    assert not guards.hold()


def test_element_of_a_set_is_seen() -> None:
    names = {"a"}
    guards = _of(names)
    names.add("b")
    _only(guards, "value{'b'}", "nothing -> 'b'")


def test_list_in_a_tuple_is_seen() -> None:
    value = (1, [2])
    guards = Guards(lambda: value)
    value[1][0] = 3
    _only(guards, "value[1][0]", "2 -> 3")


def test_namespace_that_the_code_names_is_seen() -> None:
    cfg = SimpleNamespace(scale=1, unread=1)
    guards = Guards(lambda: cfg.scale)
    cfg.unread = 2
    assert guards.hold()
    cfg.scale = 2
    _only(guards, "cfg.scale", "1 -> 2")


def test_small_array_is_guarded_by_its_elements() -> None:
    mask = np.zeros(4)
    guards = _of(mask)
    mask[1] = 1.0
    _only(guards, "value", "an array of shape (4,) -> other elements")


def test_large_array_is_guarded_as_an_object() -> None:
    mask = np.zeros(8193)  # 8 bytes more than 64 KiB
    guards = _of(mask)
    mask[1] = 1.0
    assert guards.hold()


def test_cycles_and_shared_objects_are_walked_once() -> None:
    loop: list[Any] = [1]
    loop += [loop, {"self": loop}]
    guards = _of(loop)
    loop[0] = 2
    _only(guards, "value[0]", "1 -> 2")


def test_hostile_objects_are_not_asked() -> None:
    held: list[Any] = [Hostile(), 1]
    guards = _of(held)
    assert guards.hold()
    held[:] = [Hostile(), Hostile()]
    assert not guards.hold()
    assert guards.changes() == {"value[0]": "Hostile -> another Hostile", "value[1]": "1 -> Hostile"}


def test_too_many_values_are_refused() -> None:
    table = list(range(20_001))
    with pytest.raises(CompileError, match=r"more than 20,000 Python values\n  most: 20,001 of them in value"):
        _of(table)
