"""States of PyTorch's models: files in its names and layouts give the numbers of its formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError
from needle_core.nn import pytorch

Array = npt.NDArray[Any]
State = dict[str, Array]


def drawn(**shapes: tuple[int, ...]) -> State:
    """Values for the tensors of a PyTorch state, float64, the names with __ for dots; variances are positive."""
    rng = np.random.default_rng(0)
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {
        name: rng.uniform(0.5, 2, shape) if name.endswith("running_var") else rng.normal(size=shape)
        for name, shape in names.items()
    }


def loaded(model: nn.Module, state: State, folder: Path, **options: Any) -> nn.Module:
    """`model` in evaluation mode with the state from a file, which PyTorch would have written like this."""
    safetensors.numpy.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert pytorch.load(folder / "model.safetensors", model, **options) == ([], [])
    return model.eval()


def close(y: Any, expected: Array) -> None:
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


def images(*shape: int) -> Array:
    return np.random.default_rng(1).normal(size=shape)


# -- PyTorch's layers, in its layouts, by their formulas --------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def standard(x: Array, axes: Any) -> Array:
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5))


def batch_norm(s: State, name: str, x: Array) -> Array:
    """In evaluation; the channels in the axis 1."""
    mean, var, weight, bias = (
        s[f"{name}.{kind}"].reshape(-1, *[1] * (x.ndim - 2)) for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray((x - mean) / np.sqrt(var + 1e-5) * weight + bias)


def conv2d(x: Array, weight: Array, bias: Array, groups: int = 1) -> Array:
    """x (n, i, h, w), weight (o, i/g, kh, kw), by its definition."""
    (n, _, h, w), (o, ig, kh, kw) = x.shape, weight.shape
    y = np.empty((n, o, h - kh + 1, w - kw + 1))
    for out in range(o):
        first = out // (o // groups) * ig
        for row, column in np.ndindex(*y.shape[2:]):
            window = x[:, first : first + ig, row : row + kh, column : column + kw]
            y[:, out, row, column] = (window * weight[out]).sum((1, 2, 3)) + bias[out]
    return y


def conv_transpose2d(x: Array, weight: Array, bias: Array, stride: int = 1) -> Array:
    """x (n, i, h, w), weight (i, o, kh, kw), by its definition."""
    (n, _, h, w), (_, o, kh, kw) = x.shape, weight.shape
    y = np.zeros((n, o, (h - 1) * stride + kh, (w - 1) * stride + kw)) + bias[:, None, None]
    for row, column in np.ndindex(h, w):
        patch = np.einsum("ni,iokl->nokl", x[:, :, row, column], weight)
        y[:, :, row * stride : row * stride + kh, column * stride : column * stride + kw] += patch
    return y


def lstm_step(x: Array, state: tuple[Array, ...], w: list[Array]) -> tuple[Array, ...]:
    h, c = state
    i, f, g, o = np.split(x @ w[0].T + w[2] + h @ w[1].T + w[3], 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(x: Array, state: tuple[Array, ...], w: list[Array]) -> tuple[Array, ...]:
    (h,) = state
    r, z, n = np.split(x @ w[0].T + w[2], 3, axis=1)
    hr, hz, hn = np.split(h @ w[1].T + w[3], 3, axis=1)
    z = sigmoid(z + hz)
    return ((1 - z) * np.tanh(n + sigmoid(r + hr) * hn) + z * h,)


def rnn_step(x: Array, state: tuple[Array, ...], w: list[Array]) -> tuple[Array, ...]:
    return (np.tanh(x @ w[0].T + w[2] + state[0] @ w[1].T + w[3]),)


def recurrent(step: Any, states: int, s: State, name: str, x: Array, layers: int, directions: int) -> Array:
    """The outputs of a network of PyTorch's for x (t, n, i)."""
    for layer in range(layers):
        ways = []
        for suffix in ("", "_reverse")[:directions]:
            w = [s[f"{name}.{kind}_l{layer}{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            state: tuple[Array, ...] = (np.zeros((x.shape[1], w[1].shape[1])),) * states
            steps = []
            for t in reversed(range(len(x))) if suffix else range(len(x)):
                state = step(x[t], state, w)
                steps.append(state[0])
            ways.append(np.stack(steps[::-1] if suffix else steps))
        x = np.concatenate(ways, axis=-1)
    return x


def attention(s: State, name: str, query: Array, memory: Array, heads: int) -> Array:
    """x (n, t, d), by the definition for each head."""
    d = query.shape[-1]
    (wq, wk, wv), (bq, bk, bv) = np.split(s[f"{name}.in_proj_weight"], 3), np.split(s[f"{name}.in_proj_bias"], 3)
    q, k, v = query @ wq.T + bq, memory @ wk.T + bk, memory @ wv.T + bv
    parts = []
    for columns in np.split(np.arange(d), heads):
        scores = np.exp(q[..., columns] @ k[..., columns].swapaxes(1, 2) / np.sqrt(d // heads))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[..., columns])
    return np.asarray(np.concatenate(parts, -1) @ s[f"{name}.out_proj.weight"].T + s[f"{name}.out_proj.bias"])


# -- layers -----------------------------------------------------------------------------------------------------------------


def test_linear_maps_tables_and_norms(tmp_path: Path) -> None:
    s = drawn(
        **{"0__weight": (7, 5), "1__weight": (4, 5), "1__bias": (4,), "2__weight": (4,), "2__bias": (4,)},
        **{"2__running_mean": (4,), "2__running_var": (4,), "3__weight": (4,), "3__bias": (4,), "5__weight": (3, 4)},
    )
    model = nn.Sequential(
        nn.Embedding(7, 5, dtype="float64"),
        nn.Linear(5, 4, dtype="float64"),
        nn.BatchNorm1d(4, dtype="float64"),
        nn.LayerNorm(4, dtype="float64"),
        nn.ReLU(),
        nn.Linear(4, 3, bias=False, dtype="float64"),
    )
    loaded(model, {**s, "2.num_batches_tracked": np.array(5)}, tmp_path)
    x = np.array([0, 6, 3])
    h = batch_norm(s, "2", s["0.weight"][x] @ s["1.weight"].T + s["1.bias"])
    h = np.maximum(standard(h, 1) * s["3.weight"] + s["3.bias"], 0)
    close(model(ndl.Tensor(x)), h @ s["5.weight"].T)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_convolutions(tmp_path: Path, groups: int, data_format: str) -> None:
    s = drawn(conv__weight=(6, 4 // groups, 2, 3), conv__bias=(6,))
    s |= drawn(norm__weight=(6,), norm__bias=(6,), norm__running_mean=(6,), norm__running_var=(6,))
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 6, (2, 3), groups=groups, data_format=data_format, dtype="float64"),
            "norm": nn.BatchNorm2d(6, data_format=data_format, dtype="float64"),
        }
    )
    loaded(model, s | {"norm.num_batches_tracked": np.array(0)}, tmp_path)
    x = images(2, 4, 5, 6)
    expected = batch_norm(s, "norm", conv2d(x, s["conv.weight"], s["conv.bias"], groups))
    last = data_format == "NHWC"
    y = model["norm"](model["conv"](ndl.Tensor(np.moveaxis(x, 1, -1) if last else x)))
    close(y, np.moveaxis(expected, 1, -1) if last else expected)


def test_convolutions_in_one_dimension(tmp_path: Path) -> None:
    s = drawn(weight=(3, 2, 4), bias=(3,))
    model = loaded(nn.Conv1d(2, 3, 4, data_format="NCW", dtype="float64"), s, tmp_path)
    x = images(2, 2, 9)
    close(model(ndl.Tensor(x)), conv2d(x[:, :, None], s["weight"][:, :, None], s["bias"])[:, :, 0])


def test_transposed_convolutions(tmp_path: Path) -> None:
    s = drawn(weight=(3, 2, 2, 4), bias=(2,))
    model = loaded(nn.ConvTranspose2d(3, 2, (2, 4), stride=3, data_format="NCHW", dtype="float64"), s, tmp_path)
    x = images(2, 3, 4, 2)
    close(model(ndl.Tensor(x)), conv_transpose2d(x, s["weight"], s["bias"], stride=3))


@pytest.mark.parametrize(
    ("layer", "step", "gates", "states"), [(nn.RNN, rnn_step, 1, 1), (nn.LSTM, lstm_step, 4, 2), (nn.GRU, gru_step, 3, 1)]
)
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_networks(tmp_path: Path, layer: Any, step: Any, gates: int, states: int, directions: int) -> None:
    i, d, shapes = 3, 2, {}
    for n, suffix in [(n, suffix) for n in range(2) for suffix in ("", "_reverse")[:directions]]:
        shapes[f"net__weight_ih_l{n}{suffix}"] = (gates * d, i if n == 0 else directions * d)
        shapes[f"net__weight_hh_l{n}{suffix}"] = (gates * d, d)
        shapes[f"net__bias_ih_l{n}{suffix}"] = shapes[f"net__bias_hh_l{n}{suffix}"] = (gates * d,)
    s = drawn(**shapes)
    net = layer(i, d, num_layers=2, bidirectional=directions == 2, dtype="float64")
    loaded(nn.ModuleDict({"net": net}), s, tmp_path)
    x = images(5, 4, i)
    y, _ = net(ndl.Tensor(x))
    close(y, recurrent(step, states, s, "net", x, 2, directions))


def test_cells(tmp_path: Path) -> None:
    s = drawn(weight_ih=(8, 3), weight_hh=(8, 2), bias_ih=(8,), bias_hh=(8,))
    cell = loaded(nn.LSTMCell(3, 2, dtype="float64"), s, tmp_path)
    x, state = images(4, 3), (images(4, 2), images(4, 2) + 1)
    y = cell(ndl.Tensor(x), tuple(map(ndl.Tensor, state)))
    for found, expected in zip(y, lstm_step(x, state, list(s.values())), strict=True):
        close(found, expected)


def attending(name: str, d: int) -> dict[str, tuple[int, ...]]:
    shapes = {"in_proj_weight": (3 * d, d), "in_proj_bias": (3 * d,), "out_proj__weight": (d, d), "out_proj__bias": (d,)}
    return {f"{name}__{part}": shape for part, shape in shapes.items()}


def test_attention(tmp_path: Path) -> None:
    s = drawn(**attending("attn", 6))
    model = nn.ModuleDict({"attn": nn.MultiHeadAttention(6, 2, dtype="float64")})
    loaded(model, s, tmp_path)
    x, memory = images(2, 4, 6), images(2, 5, 6)
    close(model["attn"](ndl.Tensor(x), ndl.Tensor(memory)), attention(s, "attn", x, memory, 2))


def test_transformers(tmp_path: Path) -> None:
    d, hidden, norms = 4, 6, [f"norm{i}__{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    maps = {"linear1__weight": (hidden, d), "linear1__bias": (hidden,), "linear2__weight": (d, hidden), "linear2__bias": (d,)}
    decoder = drawn(**maps, **dict.fromkeys(norms, (d,)), **attending("self_attn", d), **attending("multihead_attn", d))
    encoder = {name: v for name, v in decoder.items() if not name.startswith(("norm3", "multihead"))}

    def norm(name: str, x: Array) -> Array:
        return standard(x, -1) * decoder[f"{name}.weight"] + decoder[f"{name}.bias"]

    def mapped(x: Array) -> Array:
        h = np.maximum(x @ decoder["linear1.weight"].T + decoder["linear1.bias"], 0)
        return np.asarray(h @ decoder["linear2.weight"].T + decoder["linear2.bias"])

    x, memory = images(2, 3, d), images(2, 5, d)
    h = norm("norm1", x + attention(decoder, "self_attn", x, x, 2))
    one = loaded(nn.TransformerEncoderLayer(d, 2, hidden, dtype="float64"), encoder, tmp_path)
    close(one(ndl.Tensor(x)), norm("norm2", h + mapped(h)))
    h = norm("norm2", h + attention(decoder, "multihead_attn", h, memory, 2))
    other = loaded(nn.TransformerDecoderLayer(d, 2, hidden, dtype="float64"), decoder, tmp_path)
    close(other(ndl.Tensor(x), ndl.Tensor(memory)), norm("norm3", h + mapped(h)))


# -- flattened images -------------------------------------------------------------------------------------------------------


def classifier(**options: Any) -> nn.Module:
    layers = nn.Conv2d(2, 3, 2, **options), nn.Flatten(), nn.BatchNorm1d(18, dtype="float64"), nn.Linear(18, 4, dtype="float64")
    return nn.Sequential(*layers)


CLASSIFIER = drawn(
    **{"0__weight": (3, 2, 2, 2), "0__bias": (3,), "2__weight": (18,), "2__bias": (18,), "2__running_mean": (18,)},
    **{"2__running_var": (18,), "3__weight": (4, 18), "3__bias": (4,)},
)


@pytest.mark.parametrize(("data_format", "options"), [("NHWC", {"flattened": {"2": 3, "3": 3}}), ("NCHW", {})])
def test_flattened_images(tmp_path: Path, data_format: str, options: dict[str, Any]) -> None:
    s = CLASSIFIER
    model = loaded(classifier(data_format=data_format, dtype="float64"), s, tmp_path, **options)
    x = images(2, 2, 3, 4)
    h = batch_norm(s, "2", conv2d(x, s["0.weight"], s["0.bias"]).reshape(2, 18))
    y = model(ndl.Tensor(np.moveaxis(x, 1, -1) if data_format == "NHWC" else x))
    close(y, h @ s["3.weight"].T + s["3.bias"])
    for name, value in pytorch.state_dict(model, **options).items():
        np.testing.assert_array_equal(value, s.get(name, 0))


def test_what_becomes_images(tmp_path: Path) -> None:
    s = drawn(linear__weight=(18, 4), linear__bias=(18,), conv__weight=(3, 2, 2, 2), conv__bias=(2,))
    parts = {"linear": nn.Linear(4, 18, dtype="float64"), "conv": nn.ConvTranspose2d(3, 2, 2, dtype="float64")}
    model = nn.ModuleDict(parts)
    with pytest.raises(ArgumentError, match=r"unflattened=\{'linear': 3\}: it writes 18 features before images of 3"):
        pytorch.load(s, model)
    loaded(model, s, tmp_path, unflattened={"linear": 3})
    x = images(5, 4)
    expected = conv_transpose2d(
        (x @ s["linear.weight"].T + s["linear.bias"]).reshape(5, 3, 2, 3), s["conv.weight"], s["conv.bias"]
    )
    y = model["conv"](model["linear"](ndl.Tensor(x)).reshape(5, 2, 3, 3))
    close(y, np.moveaxis(expected, 1, -1))


@pytest.mark.parametrize("use", [lambda m: pytorch.load(CLASSIFIER, m), pytorch.state_dict], ids=["load", "save"])
def test_layers_that_may_read_flattened_images_are_asked_for(use: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        use(classifier(dtype="float64"))
    assert str(caught.value) == (
        "PyTorch flattens images with their channels first, Needle with them last; say which layers have such images\n"
        "  flattened={'2': 3}: it reads 18 features after images of 3 channels\n"
        "  flattened={'3': 3}: it reads 18 features after images of 3 channels\n"
        "  hint: 1 in place of the channels says that a layer has none"
    )


def test_one_channel_says_that_no_image_is_flattened() -> None:
    model = classifier(dtype="float64")
    pytorch.load(CLASSIFIER, model, flattened={"2": 1, "3": 1})
    np.testing.assert_array_equal(model[3].weight.numpy(), CLASSIFIER["3.weight"].T)  # type: ignore[index]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(2, 3, 2), nn.GlobalAvgPool2d(), nn.Linear(3, 7)),
        (nn.Conv2d(2, 1, 2), nn.Flatten(), nn.Linear(9, 7)),
        (nn.Conv2d(2, 3, 2), nn.LayerNorm(3), nn.Linear(3, 12), nn.Linear(12, 3), nn.Conv2d(3, 2, 1)),
        (nn.Linear(6, 6), nn.Linear(6, 4), nn.Conv2d(1, 2, 1)),
    ],
    ids=["pooled", "one channel", "pixel by pixel", "before one channel"],
)
def test_layers_that_cannot_read_flattened_images_are_not_asked_for(layers: tuple[nn.Module, ...]) -> None:
    model = nn.Sequential(*layers)
    assert pytorch.load(pytorch.state_dict(model), model) == ([], [])


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"3": 4}, "flattened: '3' has 18 features, no images of 4 channels"),
        ({"0": 3}, "flattened: '0' is no layer of features"),
        ({"fc": 3}, "flattened: 'fc' is no layer of features"),
    ],
)
def test_what_is_said_of_images_must_be_possible(said: dict[str, int], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pytorch.load({}, classifier(dtype="float64"), flattened=said)
    assert str(caught.value) == text
