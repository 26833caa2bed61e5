"""Recurrent layers against numbers of PyTorch 2.13 in float64, and what they do around their ops.

Weights, inputs and states are waves, sin(k), sin(2k), ..., each with a k of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.errors import ArgumentError, ShapeError

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
NETWORKS = (nn.RNN, nn.LSTM, nn.GRU)


def wave(*shape: int, k: float) -> Any:
    return np.sin(np.arange(1, int(np.prod(shape)) + 1) * k).reshape(shape)


def waving(layer: nn.Module) -> nn.Module:
    """The layer with waves for weights; k grows by 0.1 from cell to cell, by 0.3 from parameter to parameter."""
    for i, cell in enumerate(getattr(layer, "cells", [layer])):
        cell.load_state_dict({p: wave(*getattr(cell, p).shape, k=0.7 + 0.1 * i + 0.3 * j) for j, p in enumerate(PARAMETERS)})
    return layer


def parts(state: Any) -> tuple[ndl.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


# -- the same numbers as PyTorch --------------------------------------------------------------------------------------------

CELLS: dict[type[nn.Module], list[list[float]]] = {
    nn.RNNCell: [[0.995038466142, 0.83711684841]],
    nn.LSTMCell: [[0.0873172112767, 0.0120325744617], [0.783325917395, 0.0795924120183]],
    nn.GRUCell: [[0.725981411327, 0.427262209003]],
}


@pytest.mark.parametrize("kind", CELLS)
def test_cell_takes_the_step_of_pytorch(kind: Any) -> None:
    found = waving(kind(2, 2, dtype="float64"))(ndl.Tensor(wave(1, 2, k=0.5)))
    for state, expected in zip(parts(found), CELLS[kind], strict=True):
        np.testing.assert_allclose(state.numpy(), [expected], rtol=1e-10)


DEEP: dict[type[nn.Module], tuple[list[float], list[list[float]], list[float], float]] = {
    nn.RNN: (
        [0.916987484161, -0.0446337955113, 0.998067554999, 0.570371515545, 0.99579292572, 0.710060324935, 0.96785197979,
         -0.483885553176],
        [[0.999665774933, 0.965770576025, 0.998596068815, 0.394542507523, 0.99579292572, 0.710060324935, 0.998067554999,
          0.570371515545]],
        [0.442260390156, -0.0808126275199, -0.0208153992384, -0.00549655938001],
        1.13341162302,
    ),
    nn.LSTM: (
        [0.0920158157054, -0.216799251882, 0.379626218697, 0.000990928736572, 0.166410551862, -0.38530751197, 0.301953217558,
         0.107998777713],
        [[0.082803720064, 0.0197580181916, -0.0575527939231, -0.534422958091, 0.166410551862, -0.38530751197, 0.379626218697,
          0.000990928736572],
         [1.15984608833, 0.156651500885, -0.313463634728, -1.17832907477, 0.666175478061, -0.667953540931, 0.761743715166,
          0.00158258994998]],
        [0.0294125260258, 0.00389262176037, 0.0419961663888, 0.0314453856224],
        0.126791930217,
    ),
    nn.GRU: (
        [-0.570273989496, -0.791337785257, 0.0183190216742, -0.276225439047, -0.349914160202, -0.823612922907, 0.424274787288,
         0.237886610664],
        [[0.561324481686, 0.458052924745, 0.782145363563, -0.465429374809, -0.349914160202, -0.823612922907, 0.0183190216742,
          -0.276225439047]],
        [0.859811412399, -1.15381768313, 1.49264048842, -1.45888674345],
        0.842307506368,
    ),
}  # fmt: skip
"""y, the states after the last step, the gradient for x, and the sum of the absolute gradients for weight_hh of cells.1."""


@pytest.mark.parametrize("kind", DEEP)
def test_two_layers_in_both_directions_are_those_of_pytorch(kind: Any) -> None:
    y_expected, states_expected, by_x, by_weight = DEEP[kind]
    net: Any = waving(kind(2, 2, num_layers=2, bidirectional=True, dtype="float64"))
    x = ndl.Tensor(wave(2, 1, 2, k=0.5), requires_grad=True)
    h, c = ndl.Tensor(wave(4, 1, 2, k=0.9)), ndl.Tensor(wave(4, 1, 2, k=1.1))
    y, state = net(x, (h, c) if kind is nn.LSTM else h)
    np.testing.assert_allclose(y.numpy(), np.reshape(y_expected, (2, 1, 4)), rtol=1e-10)
    for found, expected in zip(parts(state), states_expected, strict=True):
        np.testing.assert_allclose(found.numpy(), np.reshape(expected, (4, 1, 2)), rtol=1e-10)
    ndl.sum(y * ndl.Tensor(wave(2, 1, 4, k=0.3))).backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), np.reshape(by_x, (2, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(np.abs(net.cells[1].weight_hh.grad.numpy()).sum(), by_weight, rtol=1e-9)


def test_rnn_with_relu_is_that_of_pytorch() -> None:
    y, _ = waving(nn.RNN(2, 2, nonlinearity="relu", dtype="float64"))(ndl.Tensor(wave(3, 1, 2, k=0.5)))
    expected = [[[2.99835183599, 1.21145980457]], [[6.08463704728, 3.55427006268]], [[8.09211839006, 3.93702932948]]]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)


# -- states, shapes, dropout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("ways", [1, 2])
def test_shapes_of_results(kind: Any, ways: int) -> None:
    net = kind(3, 4, num_layers=2, bidirectional=ways == 2)
    y, state = net(ndl.zeros((5, 2, 3)))
    assert y.shape == (5, 2, 4 * ways)
    assert [s.shape for s in parts(state)] == [(2 * ways, 2, 4)] * len(parts(state))


@pytest.mark.parametrize("kind", NETWORKS)
def test_batch_first_only_swaps_the_axes(kind: Any) -> None:
    net = kind(3, 4, num_layers=2)
    x = ndl.Tensor(wave(5, 2, 3, k=0.4).astype(np.float32))
    y, state = net(x)
    net.batch_first = True
    turned, same = net(ndl.swapaxes(x, 0, 1))
    np.testing.assert_array_equal(turned.numpy().swapaxes(0, 1), y.numpy())
    for a, b in zip(parts(state), parts(same), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_goes_on_from_the_state_that_it_returned(kind: Any) -> None:
    net = kind(3, 4, num_layers=2, dtype="float64")
    x = ndl.Tensor(wave(6, 2, 3, k=0.4))
    whole, end = net(x)
    first, state = net(x[:2])
    second, again = net(x[2:], state)
    np.testing.assert_allclose(np.concatenate([first.numpy(), second.numpy()]), whole.numpy(), rtol=1e-12)
    for a, b in zip(parts(end), parts(again), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_dropout_is_between_layers_and_in_training_only() -> None:
    net, x = nn.LSTM(3, 50, num_layers=2, dropout=0.5), ndl.Tensor(wave(4, 2, 3, k=0.4).astype(np.float32))
    ndl.manual_seed(0)
    dropped = net(x)
    ndl.manual_seed(0)
    np.testing.assert_array_equal(net(x)[0].numpy(), dropped[0].numpy())
    assert not np.array_equal(net(x)[0].numpy(), dropped[0].numpy())
    net.eval()
    y, (h, _) = net(x)
    np.testing.assert_array_equal(net(x)[0].numpy(), y.numpy())
    np.testing.assert_array_equal(h.numpy()[0], dropped[1][0].numpy()[0])  # the first layer sees no dropout
    one = nn.LSTM(3, 4, dropout=0.5)
    np.testing.assert_array_equal(one(x)[0].numpy(), one(x)[0].numpy())


def test_parameters_start_uniform_within_the_root_of_the_units() -> None:
    ndl.manual_seed(1)
    cell = nn.LSTMCell(30, 25)
    assert [(name, p.shape) for name, p in cell.named_parameters()] == [
        ("weight_ih", (30, 100)), ("weight_hh", (25, 100)), ("bias_ih", (100,)), ("bias_hh", (100,)),
    ]  # fmt: skip
    for p in cell.parameters():
        assert 0.18 < np.abs(p.numpy()).max() <= 0.2
        assert abs(p.numpy().mean()) < 0.06


def test_reprs_show_what_was_chosen() -> None:
    assert repr(nn.LSTM(3, 4, num_layers=2, bias=False, batch_first=True)) == (
        "LSTM(3, 4, num_layers=2, batch_first=True\n  (cells.0): LSTMCell(3, 4, bias=False)\n"
        "  (cells.1): LSTMCell(4, 4, bias=False)\n  (dropout): Dropout(0.0)\n)"
    )
    assert repr(nn.RNNCell(3, 4, nonlinearity="relu")) == "RNNCell(3, 4, nonlinearity='relu')"


# -- errors -----------------------------------------------------------------------------------------------------------------


def test_networks_refuse_what_is_no_sequence() -> None:
    with pytest.raises(ShapeError, match=r"^GRU: x has the axes \(time, sample, feature\), and 3 features"):
        nn.GRU(3, 4)(ndl.zeros((5, 3)))
    with pytest.raises(ShapeError, match=r"^GRU: x has the axes \(sample, time, feature\), and 3 features"):
        nn.GRU(3, 4, batch_first=True)(ndl.zeros((2, 5, 4)))
    with pytest.raises(ShapeError, match=r"^RNN: a sequence has at least one step"):
        nn.RNN(3, 4)(ndl.zeros((0, 2, 3)))
    with pytest.raises(ShapeError, match=r"^LSTMCell: x has the axes \(sample, feature\), and 3 features"):
        nn.LSTMCell(3, 4)(ndl.zeros((1, 2, 3)))


def test_states_that_do_not_fit_are_refused() -> None:
    x, h = ndl.zeros((5, 2, 3)), ndl.zeros((1, 2, 4))
    with pytest.raises(ShapeError) as caught:
        nn.LSTM(3, 4)(x, h)
    assert str(caught.value) == (
        f"LSTM: the state is (h, c), of the shape [1, 2, 4]\n  state[0]: float32[1, 2, 4] on {x.device}"
    )
    with pytest.raises(ShapeError, match=r"^GRU: the state is h, of the shape \[2, 2, 4\]"):
        nn.GRU(3, 4, bidirectional=True)(x, h)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.RNNCell(3, 4, nonlinearity="gelu"), "RNNCell: nonlinearity is 'tanh' or 'relu', not 'gelu'"),
        (lambda: nn.GRUCell(3, 0), "GRUCell: no cell has 3 features and 0 units"),
        (lambda: nn.LSTM(3, 4, num_layers=0), "LSTM: there is at least one layer, not 0"),
        (lambda: nn.LSTM(3, 4, dropout=1.0), r"Dropout: p is a probability in \[0, 1\), not 1.0"),
    ],
)
def test_sizes_and_options_that_make_no_layer_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        make()
