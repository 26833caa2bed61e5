"""Recurrent cells and networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core import nn
from needle_core.testing import CASES
from needle_core.testing.layers.layer import Layer, State
from needle_core.testing.samples import Array, Input, real


class _Flat(nn.Module):
    """All that a recurrent layer returns, one after the other. A state to begin with is one operand for each of its tensors."""

    _inlined = "layer"

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def forward(self, x: ndl.Tensor, *state: ndl.Tensor) -> ndl.Tensor:
        found = self.layer(x, state if len(state) > 1 else state[0]) if state else self.layer(x)
        return ndl.concat(*(t.reshape(t.size) for t in ndl.tree.flatten(found)[0]))


def _over(op: str, s: State, name: str, x: Array, state: list[Array], **attrs: Any) -> list[Array]:
    """The states of one cell after every step, by the reference of its op."""
    w_ih, w_hh, b_ih, b_hh = (s[name + p] if name + p in s else np.zeros(1) for p in _PARAMETERS)
    b_ih, b_hh = np.broadcast_to(b_ih, w_hh.shape[1:]), np.broadcast_to(b_hh, w_hh.shape[1:])
    found = CASES[op].reference(x, *state, w_ih, w_hh, *((b_ih, b_hh) if op == "gru" else (b_ih + b_hh,)), **attrs)
    return list(found) if isinstance(found, tuple) else [found]


_PARAMETERS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_KINDS: Final[dict[str, Callable[..., nn.Module]]] = {
    "RNNCell": nn.RNNCell, "LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU,
}  # fmt: skip


def _flat(*arrays: Array) -> Array:
    return np.concatenate([np.ravel(a) for a in arrays])


def _cell(kind: str, state: bool, **options: Any) -> Layer:
    """A cell with 2 features and 3 units, on 2 samples; with a given `state`, or without."""
    op = kind.removesuffix("Cell").lower()
    attrs = {name: value for name, value in options.items() if name == "nonlinearity"}

    def reference(s: State, x: Array, *given: Array) -> Array:
        begin = list(given) or [np.zeros((2, 3))] * (1 + (op == "lstm"))
        return _flat(*(states[0] for states in _over(op, s, "", x[None], begin, **attrs)))

    return _layer(kind, reference, (2, 3), (real(2, 2), *[real(2, 3)] * (state * (1 + (op == "lstm")))), options)


def _network(kind: str, state: bool, layers: int = 1, **options: Any) -> Layer:
    """A network with 1 feature and 2 units, on 3 steps of 1 sample; with a given `state`, or without."""
    op = kind.lower()
    ways = (False, True) if options.get("bidirectional") else (False,)
    first, cells = options.get("batch_first", False), layers * len(ways)
    attrs = {name: value for name, value in options.items() if name == "nonlinearity"}

    def reference(s: State, x: Array, *given: Array) -> Array:
        begin = list(given) or [np.zeros((cells, 1, 2))] * (1 + (op == "lstm"))
        x, last = x.swapaxes(0, 1) if first else x, []
        for layer in range(layers):
            sides = []
            for k, reverse in enumerate(ways, layer * len(ways)):
                sides.append(_over(op, s, f"cells.{k}.", x, [b[k] for b in begin], reverse=reverse, **attrs))
                last.append([states[0 if reverse else -1] for states in sides[-1]])
            x = np.concatenate([side[0] for side in sides], axis=-1)
        return _flat(x.swapaxes(0, 1) if first else x, *(np.array(part) for part in zip(*last, strict=True)))

    given = [real(cells, 1, 2)] * (state * (1 + (op == "lstm")))
    x = real(1, 3, 1) if first else real(3, 1, 1)
    return _layer(kind, reference, (1, 2), (x, *given), {"num_layers": layers, **options})


def _layer(
    kind: str, reference: Callable[..., Array], sizes: tuple[int, int], inputs: tuple[Input, ...], options: dict[str, Any]
) -> Layer:
    text = ", ".join([*map(str, sizes), *(f"{name}={value!r}" for name, value in options.items())])
    text += ", with a state" if len(inputs) > 1 else ""
    return Layer(kind, text, lambda dtype: _Flat(_KINDS[kind](*sizes, **options, dtype=dtype)), reference, inputs)


LAYERS: Final = (
    *(_cell(kind, state) for kind in ("RNNCell", "LSTMCell", "GRUCell") for state in (False, True)),
    _cell("RNNCell", False, bias=False), _cell("LSTMCell", False, bias=False), _cell("GRUCell", False, bias=False),
    *(_network(kind, state) for kind in ("RNN", "LSTM", "GRU") for state in (False, True)),
    *(_network(kind, True, layers=2, bidirectional=True) for kind in ("RNN", "LSTM", "GRU")),
    _network("LSTM", False, batch_first=True), _network("RNN", False, bias=False),
)  # fmt: skip
