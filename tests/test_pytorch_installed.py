"""Both ways between Needle and an installed PyTorch, without which these tests are skipped: equal states, equal outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import needle_core as ndl
from needle_core import nn
from needle_core.nn import pytorch
from tests.devices import on_the_host

torch: Any = pytest.importorskip("torch")
tn: Any = torch.nn


def drawn(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def last(x: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def same(x: Any) -> Any:
    return x


def whole(*tensors: Any) -> list[Any]:
    """Each tensor in nested tuples."""
    return [t for x in tensors for t in (whole(*x) if isinstance(x, tuple) else [x])]


# Theirs, ours, an input of theirs, the way from its layout to ours (also that of outputs), and what is said of images.
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module], Any, Callable[[Any], Any], dict[str, Any]]] = {
    "mlp": (
        lambda: tn.Sequential(tn.Linear(5, 8), tn.BatchNorm1d(8), tn.ReLU(), tn.LayerNorm(8), tn.Linear(8, 3, bias=False)),
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3, bias=False)),
        drawn(4, 5), same, {},
    ),
    "embedding": (lambda: tn.Embedding(5, 3), lambda: nn.Embedding(5, 3), np.array([[0, 4], [2, 2]]), same, {}),
    "conv1d": (
        lambda: tn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2),
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2),
        drawn(2, 4, 11), last, {},
    ),
    "conv2d": (
        lambda: tn.Sequential(tn.Conv2d(4, 6, (3, 2), padding=1, groups=2, bias=False), tn.BatchNorm2d(6), tn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(4, 6, (3, 2), padding=1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        drawn(2, 4, 7, 6), last, {},
    ),
    "channels first": (
        lambda: tn.Sequential(tn.Conv2d(4, 6, 3), tn.Flatten(), tn.Linear(72, 2)),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, data_format="NCHW"), nn.Flatten(), nn.Linear(72, 2)),
        drawn(2, 4, 6, 5), same, {},
    ),
    "transposed": (
        lambda: tn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        drawn(2, 4, 5, 4), last, {},
    ),
    "transposed1d": (
        lambda: tn.ConvTranspose1d(4, 6, 3, stride=2), lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), drawn(2, 4, 5), last, {},
    ),
    "rnn": (lambda: tn.RNN(3, 4, nonlinearity="relu"), lambda: nn.RNN(3, 4, nonlinearity="relu"), drawn(5, 2, 3), same, {}),
    "lstm": (
        lambda: tn.LSTM(3, 4, 2, bidirectional=True), lambda: nn.LSTM(3, 4, 2, bidirectional=True), drawn(5, 2, 3), same, {},
    ),
    "gru": (
        lambda: tn.GRU(3, 4, 2, bidirectional=True, batch_first=True),
        lambda: nn.GRU(3, 4, 2, bidirectional=True, batch_first=True),
        drawn(2, 5, 3), same, {},
    ),
    "rnn cell": (lambda: tn.RNNCell(3, 4), lambda: nn.RNNCell(3, 4), drawn(2, 3), same, {}),
    "lstm cell": (lambda: tn.LSTMCell(3, 4), lambda: nn.LSTMCell(3, 4), drawn(2, 3), same, {}),
    "gru cell": (lambda: tn.GRUCell(3, 4, bias=False), lambda: nn.GRUCell(3, 4, bias=False), drawn(2, 3), same, {}),
    "encoder": (
        lambda: tn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, batch_first=True),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True),
        drawn(2, 5, 8), same, {},
    ),
}  # fmt: skip


def outputs(theirs: Any, ours: nn.Module, x: Any, layout: Callable[[Any], Any]) -> None:
    """In evaluation both give the same."""
    with torch.no_grad():
        expected = whole(theirs.eval()(torch.from_numpy(x)))
    found = whole(ours.eval()(ndl.Tensor(layout(x))))
    for y, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(y.numpy(), layout(e.numpy()), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_a_state_of_pytorch_gives_its_outputs(name: str) -> None:
    make_theirs, make_ours, x, layout, options = PAIRS[name]
    torch.manual_seed(0)
    theirs, ours = make_theirs(), make_ours()
    if x.dtype == np.float32:
        theirs.train()(torch.from_numpy(x))  # running statistics that are not those of the beginning
    pytorch.load(theirs.state_dict(), ours, **options)
    outputs(theirs, ours, x, layout)


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_of_ours_is_loaded_by_pytorch(name: str, tmp_path: Path) -> None:
    make_theirs, make_ours, x, layout, options = PAIRS[name]
    ndl.manual_seed(0)
    theirs, ours = make_theirs(), make_ours()
    pytorch.save(tmp_path / "m", ours, **options)
    state = {k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(tmp_path / "m").items()}
    theirs.load_state_dict(state)
    outputs(theirs, ours, x, layout)


def test_a_flattened_image() -> None:
    theirs = tn.Sequential(tn.Conv2d(2, 4, 3), tn.ReLU(), tn.Flatten(), tn.Linear(48, 3))
    ours = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    x = drawn(2, 2, 6, 5)
    pytorch.load(theirs.state_dict(), ours, flattened={"3": 4})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(ndl.Tensor(last(x))).numpy(), expected, rtol=2e-5, atol=2e-6)
    state = pytorch.state_dict(ours, flattened={"3": 4})
    assert all(np.array_equal(state[k], v.numpy()) for k, v in theirs.state_dict().items())


def test_a_decoder_attends_to_its_memory() -> None:
    theirs, ours = tn.TransformerDecoderLayer(8, 2, 16, batch_first=True), nn.TransformerDecoderLayer(8, 2, 16)
    x, memory = drawn(2, 3, 8), drawn(2, 5, 8)
    pytorch.load(theirs.state_dict(), ours)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x), torch.from_numpy(memory)).numpy()
    y = ours.eval()(ndl.Tensor(x), ndl.Tensor(memory))
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_a_bfloat16_state_as_it_is() -> None:
    theirs, ours = tn.Linear(3, 2, dtype=torch.bfloat16), nn.Linear(3, 2, dtype="bfloat16")
    pytorch.load(theirs.state_dict(), ours)
    assert ours.weight.tolist() == theirs.weight.T.tolist()


# -- DLPack -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"])
@on_the_host
def test_dlpack_goes_both_ways_without_a_copy(dtype: str) -> None:
    t = ndl.Tensor([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    there = torch.from_dlpack(t)
    assert (str(there.dtype), there.tolist()) == (f"torch.{dtype}", t.tolist())
    assert there.data_ptr() == t.numpy().ctypes.data
    back = ndl.from_dlpack(there)
    assert (back.spec is t.spec, back.tolist()) == (True, t.tolist())
    assert back.numpy().ctypes.data == there.data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@on_the_host
def test_dlpack_takes_every_layout(dtype: str) -> None:
    t = ndl.Tensor(np.arange(12).reshape(3, 4), dtype=dtype)
    for ours in (t.mT, t[::2, 1:], t[:, ::-1], ndl.flip(t), t[0, 0], t[:0], ndl.broadcast_to(t[0], shape=(2, 4))):
        assert torch.from_dlpack(ours).tolist() == ours.tolist()
    u = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    for theirs in (u.T, u[::2, 1:], u[0, 0], u[:0], u[0].expand(2, 4)):
        assert ndl.from_dlpack(theirs).tolist() == theirs.tolist()


@on_the_host
def test_what_pytorch_writes_into_a_constant_stays_there() -> None:
    """PyTorch writes into memory that it was told not to write."""
    for lent in (ndl.full((), 7.0), ndl.full((2, 3), 7.0), ndl.Tensor(1.0) * 7.0):
        torch.from_dlpack(lent).add_(1)
        assert set(np.ravel(lent.numpy())) == {7}
    assert ndl.full((), 7.0).item() == 7


def test_a_tensor_with_gradients_is_refused_by_pytorch() -> None:
    with pytest.raises(BufferError, match="detach"):
        ndl.from_dlpack(torch.ones(2, requires_grad=True))
