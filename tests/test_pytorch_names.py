"""States of PyTorch's models: names, rules, what does not fit, what is shared, and files for PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from needle_core import nn
from needle_core.errors import ArgumentError, CheckpointError, StateError
from needle_core.nn import pytorch

pytestmark = pytest.mark.once

State = dict[str, npt.NDArray[Any]]


# -- names ------------------------------------------------------------------------------------------------------------------


class Mine(nn.Module):
    def __init__(self) -> None:
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3))
        self.head = nn.Linear(3, 1)


def ones(model: nn.Module, **options: Any) -> State:
    return {name: np.ones_like(v) for name, v in pytorch.state_dict(model, **options).items()}


def test_names_of_modules_and_tensors_are_renamed() -> None:
    names = {"model": "", "encoder": "body", "encoder.fc2": "body.2", "scale": "head.bias"}
    theirs = ["encoder.0.weight", "encoder.0.bias", "encoder.fc2.weight", "encoder.fc2.bias", "head.weight", "scale"]
    state = pytorch.state_dict(Mine(), names=names)
    assert list(state) == [f"model.{name}" for name in theirs]
    model = Mine()
    assert pytorch.load(ones(model, names=names), model, names=names) == ([], [])
    assert all((p.numpy() == 1).all() for p in model.parameters())


def test_a_state_of_a_part_is_loaded_into_the_part() -> None:
    model = Mine()
    before = model.head.weight.numpy()
    pytorch.load(ones(model.body), model.body)
    assert (model.body[2].weight.numpy() == 1).all()
    assert model.head.weight.numpy() is not before
    assert (model.head.weight.numpy() == before).all()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"fc": "tail"}, "names: Mine has nothing that is called 'tail', for 'fc'"),
        ({"a": "head", "b": "head"}, "names: two names of PyTorch's for the same thing\n  a: head\n  b: head"),
    ],
)
def test_names_that_cannot_be_are_refused(names: dict[str, str], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pytorch.load({}, Mine(), names=names)
    assert str(caught.value) == text


class Scores(nn.Module):
    """A layer of a user's: a square table that PyTorch has the other way around, under another name."""

    def __init__(self) -> None:
        self.table = nn.Parameter(np.zeros((2, 2)))


def test_a_layer_without_a_rule_keeps_names_and_layouts() -> None:
    layer = Scores()
    pytorch.load({"table": np.array([[1.0, 2], [3, 4]])}, layer)
    assert layer.table.tolist() == [[1, 2], [3, 4]]


def test_a_layer_of_ones_own_states_its_rule_for_subclasses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(Scores):
        pass

    monkeypatch.setitem(pytorch.RULES, Scores, pytorch.Rule(last={"table": 0}, names={"table": "kernel"}))
    model = nn.Sequential(Special())
    pytorch.load({"0.kernel": np.array([[1.0, 2], [3, 4]])}, model)
    assert model[0].table.tolist() == [[1, 3], [2, 4]]
    assert pytorch.state_dict(model)["0.kernel"].tolist() == [[1, 2], [3, 4]]


def test_what_the_constructor_computes_is_neither_written_nor_missing() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.PositionalEncoding(2, max_len=4))
    table = model[1].table.tolist()
    assert sorted(pytorch.state_dict(model)) == ["0.bias", "0.weight"]
    assert pytorch.load(ones(model), model) == ([], [])
    assert model[1].table.tolist() == table


# -- what does not fit ------------------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_listed_and_nothing_loaded() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 1), nn.Linear(1, 1))
    state = ones(model)
    before = {name: v.numpy() for name, v in model.state_dict().items()}
    del state["1.weight_hh_l0"]
    state |= {"0.weight": np.ones((2, 3), np.float32), "2.bias": np.ones(1, np.float16), "fc.weight": np.ones(1)}
    with pytest.raises(StateError) as caught:
        pytorch.load(state, model)
    assert str(caught.value) == (
        "the PyTorch state does not fit Sequential; nothing was loaded\n"
        "  missing: 1.weight_hh_l0\n"
        "  unexpected: fc.weight\n"
        "  misshapen: 0.weight is float32[2, 3], not float32[3, 2]; 2.bias is float16[1], not float32[1]\n"
        '  hint: names={"theirs": "ours"} renames modules and tensors'
    )
    assert all(np.array_equal(v.numpy(), before[name]) for name, v in model.state_dict().items())


def test_what_is_missing_and_unexpected_is_returned_if_not_strict() -> None:
    model = nn.Linear(2, 2)
    found = pytorch.load({"weight": np.ones((2, 2), np.float32), "other": np.ones(1)}, model, strict=False)
    assert found == (["bias"], ["other"])
    assert model.weight.tolist() == [[1, 1], [1, 1]]


def test_a_file_that_is_none_of_safetensors_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(CheckpointError, match=r"model\.pt: truncated, or no safetensors file"):
        pytorch.load(tmp_path / "model.pt", nn.Linear(2, 2))


# -- shared tensors ---------------------------------------------------------------------------------------------------------


def shared() -> nn.Module:
    """A layer under two names, as PyTorch has it in its state twice."""
    layer = nn.Linear(2, 2, bias=False)
    return nn.Sequential(layer, nn.ReLU(), layer)


def test_a_shared_tensor_is_written_under_all_of_its_names() -> None:
    assert sorted(pytorch.state_dict(shared())) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("names", [["0.weight"], ["2.weight"], ["0.weight", "2.weight"]])
def test_a_shared_tensor_is_read_under_any_of_its_names(names: list[str]) -> None:
    model = shared()
    pytorch.load({name: np.ones((2, 2), np.float32) for name in names}, model)
    assert model.parameters()[0].tolist() == [[1, 1], [1, 1]]


def test_what_is_shared_here_cannot_have_two_values() -> None:
    with pytest.raises(StateError, match=r"unlike what is shared here: 2\.weight"):
        pytorch.load({"0.weight": np.ones((2, 2), np.float32), "2.weight": np.zeros((2, 2), np.float32)}, shared())


# -- the way back -----------------------------------------------------------------------------------------------------------


def test_a_file_for_pytorch_has_its_names_and_layouts(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.GRU(3, 2), nn.Conv1d(2, 4, 3, bias=False))
    pytorch.save(tmp_path / "m.safetensors", model)
    forms = {name: (v.dtype.name, v.shape) for name, v in safetensors.numpy.load_file(tmp_path / "m.safetensors").items()}
    f = "float32"
    assert forms == {
        **{"0.weight": (f, (3, 2)), "0.bias": (f, (3,)), "1.weight": (f, (3,)), "1.bias": (f, (3,))},
        **{"1.running_mean": (f, (3,)), "1.running_var": (f, (3,)), "1.num_batches_tracked": ("int64", ())},
        **{"2.weight_ih_l0": (f, (6, 3)), "2.weight_hh_l0": (f, (6, 2)), "2.bias_ih_l0": (f, (6,)), "2.bias_hh_l0": (f, (6,))},
        "3.weight": (f, (4, 2, 3)),
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_what_was_written_is_read_with_the_same_bits(tmp_path: Path, dtype: str) -> None:
    model, other = (nn.Sequential(nn.Conv2d(2, 3, 2, dtype=dtype), nn.Linear(3, 2, dtype=dtype)) for _ in range(2))
    pytorch.save(tmp_path / "m", model)
    pytorch.load(tmp_path / "m", other)
    for name, value in model.state_dict().items():
        assert other.state_dict()[name].spec is value.spec
        assert other.state_dict()[name].numpy().tobytes() == value.numpy().tobytes()


def test_a_bfloat16_file_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 1, bias=False, dtype="bfloat16")
    safetensors.numpy.save_file({"weight": np.array([[1, 2.5]], ml_dtypes.bfloat16)}, tmp_path / "m")
    pytorch.load(tmp_path / "m", model)
    assert model.weight.tolist() == [[1], [2.5]]
