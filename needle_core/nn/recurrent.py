"""Recurrent layers: cells, which take one step, and networks of cells, which go over whole sequences."""

from __future__ import annotations

import math
from typing import Any, ClassVar, TypeAlias

from needle_core.backend import DeviceLike
from needle_core.errors import ArgumentError, ShapeError
from needle_core.nn import init
from needle_core.nn.dropout import Dropout
from needle_core.nn.module import Module, Parameter
from needle_core.ops import concat, expand_dims, gru, lstm, rnn, stack, swapaxes, zeros
from needle_core.spec import DTypeLike
from needle_core.tensor import Tensor

States: TypeAlias = tuple[Tensor, ...]
"""What a layer remembers: (h,), or (h, c)."""


class _Remembering(Module):
    """What cells and networks have in common: a state before and one after. To the caller, (h,) is the tensor h."""

    states: ClassVar[int] = 1
    input_size: int
    hidden_size: int

    def _check(self, x: Tensor, *axes: str) -> None:
        if x.ndim != len(axes) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: x has the axes ({', '.join(axes)}), and {self.input_size} features",
                details={"x": x.spec},
            )

    def _begin(self, given: Any, shape: tuple[int, ...], like: Tensor) -> States:
        """The state before the first step: the one that was given, or zeros."""
        if given is None:
            return (zeros(shape, dtype=like.dtype, device=like.device),) * self.states
        state: States = tuple(given) if isinstance(given, tuple | list) else (given,)
        if len(state) != self.states or any(s.shape != shape for s in state):
            raise ShapeError(
                f"{type(self).__name__}: the state is {'h' if self.states == 1 else '(h, c)'}, of the shape {list(shape)}",
                details={f"state[{i}]": s.spec for i, s in enumerate(state)},
            )
        return state

    def _end(self, state: States) -> Any:
        return state if self.states > 1 else state[0]


# -- cells ------------------------------------------------------------------------------------------------------------------


class _Cell(_Remembering):
    """The parameters for one layer in one direction; `over` takes them over a sequence."""

    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if input_size < 0 or hidden_size < 1:
            raise ArgumentError(f"{type(self).__name__}: no cell has {input_size} features and {hidden_size} units")
        self.input_size, self.hidden_size = input_size, hidden_size
        k, width = 1 / math.sqrt(hidden_size), self.gates * hidden_size

        def drawn(*shape: int) -> Parameter:
            return Parameter(init.rand(*shape, low=-k, high=k, device=device, dtype=dtype))

        self.weight_ih, self.weight_hh = drawn(input_size, width), drawn(hidden_size, width)
        self.bias_ih: Parameter | None = drawn(width) if bias else None
        self.bias_hh: Parameter | None = drawn(width) if bias else None

    def forward(self, x: Tensor, state: Any = None) -> Any:
        self._check(x, "sample", "feature")
        begin = self._begin(state, (x.shape[0], self.hidden_size), like=x)
        return self._end(tuple(s[0] for s in self.over(expand_dims(x, 0), begin)))

    def over(self, x: Tensor, state: States, reverse: bool = False) -> States:
        """The states after every step of a sequence x (t, n, i), each (t, n, d), from that before the first, each (n, d)."""
        raise NotImplementedError(f"{type(self).__name__} must define over(self, x, state, reverse)")

    def _biases(self) -> tuple[Tensor, Tensor]:
        if self.bias_ih is None or self.bias_hh is None:
            w = self.weight_hh
            return (zeros(w.shape[1], dtype=w.dtype, device=w.device),) * 2
        return self.bias_ih, self.bias_hh

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")


class RNNCell(_Cell):
    """One step of a recurrent network.

        h <- f(x @ weight_ih + bias_ih + h @ weight_hh + bias_hh),  f the `nonlinearity`, "tanh" or "relu"

    All parameters start uniform in [-1/sqrt(d), 1/sqrt(d)), d = hidden_size. An h that is left out is zero.

    Shapes:   x (n, i), h (n, d) -> (n, d), i = input_size
    Source:   Elman 1990, doi:10.1207/s15516709cog1402_1
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"RNNCell: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def over(self, x: Tensor, state: States, reverse: bool = False) -> States:
        (h,), (b_ih, b_hh) = state, self._biases()
        weights = self.weight_ih, self.weight_hh, b_ih + b_hh
        return (rnn(x, h, *weights, nonlinearity=self.nonlinearity, reverse=reverse),)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTMCell(_Cell):
    """One step of long short-term memory: its state is a pair (h, c).

        i, f, g, o = the blocks of x @ weight_ih + bias_ih + h @ weight_hh + bias_hh, through sigmoid, but g through tanh
        c <- f c + i g
        h <- o tanh(c)

    All parameters start uniform in [-1/sqrt(d), 1/sqrt(d)), d = hidden_size. A state that is left out is zero.

    Shapes:   x (n, i), (h (n, d), c (n, d)) -> (h (n, d), c (n, d)), i = input_size
    Source:   Gers, Schmidhuber & Cummins 2000, doi:10.1162/089976600300015015
    """

    states, gates = 2, 4

    def over(self, x: Tensor, state: States, reverse: bool = False) -> States:
        (h, c), (b_ih, b_hh) = state, self._biases()
        return lstm(x, h, c, self.weight_ih, self.weight_hh, b_ih + b_hh, reverse=reverse)


class GRUCell(_Cell):
    """One step of a gated recurrent unit.

        ar, az, an = the blocks of x @ weight_ih + bias_ih,  br, bz, bn = those of h @ weight_hh + bias_hh
        r, z, n = sigmoid(ar + br), sigmoid(az + bz), tanh(an + r bn)
        h <- (1 - z) n + z h

    All parameters start uniform in [-1/sqrt(d), 1/sqrt(d)), d = hidden_size. An h that is left out is zero.

    Shapes:   x (n, i), h (n, d) -> (n, d), i = input_size
    Source:   Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product
    """

    gates = 3

    def over(self, x: Tensor, state: States, reverse: bool = False) -> States:
        (h,), (b_ih, b_hh) = state, self._biases()
        return (gru(x, h, self.weight_ih, self.weight_hh, b_ih, b_hh, reverse=reverse),)


# -- networks ---------------------------------------------------------------------------------------------------------------


class _Network(_Remembering):
    """Layers of cells, each over the whole sequence that the one below gives, in one direction or both."""

    kind: ClassVar[type[_Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if num_layers < 1:
            raise ArgumentError(f"{type(self).__name__}: there is at least one layer, not {num_layers}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.directions = 2 if bidirectional else 1
        widths = [input_size, *[self.directions * hidden_size] * (num_layers - 1)]
        self.cells = [
            self._cell(width, bias=bias, device=device, dtype=dtype) for width in widths for _ in range(self.directions)
        ]
        self.dropout = Dropout(dropout)

    def _cell(self, width: int, **options: Any) -> _Cell:
        return self.kind(width, self.hidden_size, **options)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self._check(x, *(("sample", "time", "feature") if self.batch_first else ("time", "sample", "feature")))
        x = swapaxes(x, 0, 1) if self.batch_first else x
        if not x.shape[0]:
            raise ShapeError(f"{type(self).__name__}: a sequence has at least one step", details={"x": x.spec})
        begin = self._begin(state, (len(self.cells), x.shape[1], self.hidden_size), like=x)
        last: list[States] = []
        for layer in range(self.num_layers):
            x = self.dropout(x) if layer else x
            ways = []
            for reverse in (False, True)[: self.directions]:
                states = self.cells[len(last)].over(x, tuple(s[len(last)] for s in begin), reverse)
                last.append(tuple(s[0 if reverse else -1] for s in states))
                ways.append(states[0])
            x = concat(*ways, axis=-1) if self.bidirectional else ways[0]
        return swapaxes(x, 0, 1) if self.batch_first else x, self._end(tuple(stack(s) for s in zip(*last, strict=True)))

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}" + (f", num_layers={self.num_layers}" if self.num_layers > 1 else "")
        return sizes + "".join(f", {name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name))


class RNN(_Network):
    """Recurrent networks over sequences, each layer over what the one below gives.

    A step of a layer is that of RNNCell. `cells` lists the cells: layer 0, and with `bidirectional` layer 0 back in time, then
    layer 1. `dropout` is the probability of Dropout between layers. A state that is left out is zero.

    Shapes:   x (t, n, i), h (l, n, d) -> y (t, n, d), h (l, n, d), l = num_layers; with `batch_first` x and y are (n, t, ...);
              with `bidirectional` both directions stand side by side, l = 2 num_layers and y has 2d
    Source:   Elman 1990, doi:10.1207/s15516709cog1402_1; Schuster & Paliwal 1997, doi:10.1109/78.650093
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: DeviceLike | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def _cell(self, width: int, **options: Any) -> RNNCell:
        return RNNCell(width, self.hidden_size, nonlinearity=self.nonlinearity, **options)


class LSTM(_Network):
    """Long short-term memory over sequences, each layer over what the one below gives.

    A step of a layer is that of LSTMCell, and the state a pair (h, c). For `cells` and `dropout` see RNN.

    Shapes:   x (t, n, i), (h, c) each (l, n, d) -> y (t, n, d), (h, c) each (l, n, d), l = num_layers; with `batch_first` x and
              y are (n, t, ...); with `bidirectional` both directions stand side by side, l = 2 num_layers and y has 2d
    Source:   Gers, Schmidhuber & Cummins 2000, doi:10.1162/089976600300015015
    """

    states, kind = 2, LSTMCell


class GRU(_Network):
    """Gated recurrent units over sequences, each layer over what the one below gives.

    A step of a layer is that of GRUCell. For `cells` and `dropout` see RNN.

    Shapes:   x (t, n, i), h (l, n, d) -> y (t, n, d), h (l, n, d), l = num_layers; with `batch_first` x and y are (n, t, ...);
              with `bidirectional` both directions stand side by side, l = 2 num_layers and y has 2d
    Source:   Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product
    """

    kind = GRUCell
