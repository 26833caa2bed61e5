"""States of PyTorch's models, in safetensors files or as they are: loaded into the corresponding layers, and written from them.

The rule:

- A tensor is called what the attributes call it, in PyTorch as here, and looks the same. `RULES` has the exceptions by layer:
- Linear maps are written x @ weight, and images have their channels last. So one axis of PyTorch's weights comes last here.
- Some modules and tensors are called differently.
- An image that is flattened has its channels last here and first in PyTorch. Layers that read or write one have their features
  in another order, and only the author of the model knows which do. Where one might, it must be said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from needle_core.dlpack import imported
from needle_core.errors import ArgumentError, StateError
from needle_core.nn.attention import MultiHeadAttention
from needle_core.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from needle_core.nn.linear import Linear
from needle_core.nn.module import Buffer, Module, Parameter
from needle_core.nn.normalization import BatchNorm1d, BatchNorm2d, LayerNorm
from needle_core.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from needle_core.nn.transformer import PositionalEncoding, TransformerDecoderLayer, TransformerEncoderLayer
from needle_core.tensor import Tensor

__all__ = ["RULES", "Rule", "load", "save", "state_dict"]

Array: TypeAlias = npt.NDArray[Any]
Names: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """How PyTorch holds the state of a kind of layer, where that differs. Names are those in the layer's own `state_dict`.

    `last`: for tensors by name, which axis of PyTorch's is the last one here.
    `names`: {ours: theirs} for tensors or modules in the layer, or a function that makes this of a layer.
    `extra`: what only PyTorch has, by its names: not read, and written with these values.
    `own`: the tensors that PyTorch does not have, since the constructor computes them: neither read nor written.
    `reads`: the tensors whose first axis counts the features that the layer reads.
    `writes`: the tensors whose last axis counts the features that it writes.
    """

    last: Mapping[str, int] = field(default_factory=dict)
    names: Names | Callable[[Any], Names] = field(default_factory=dict)
    extra: Mapping[str, Array] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def _cells(network: Any) -> Names:
    """The names of a recurrent network: cells.1.weight_ih is weight_ih_l0_reverse there, if it has both directions."""
    directions = ("", "_reverse")[: 1 + network.bidirectional]
    each = [f"l{layer}{direction}" for layer in range(network.num_layers) for direction in directions]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {f"cells.{i}.{kind}": f"{kind}_{which}" for i, which in enumerate(each) for kind in kinds}


_CONV = Rule(last={"weight": 1})  # (o, i/g, *k) -> (o, *k, i/g); transposed, (i, o/g, *k) -> (i, *k, o/g)
_CELL = Rule(last={"weight_ih": 0, "weight_hh": 0}, reads=("weight_ih",))  # (gates of d, i) -> (i, gates of d)
_COUNT = {"num_batches_tracked": np.zeros((), np.int64)}
_NORM, _STATISTICS = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var")

RULES: dict[type[Module], Rule] = {
    Linear: Rule(last={"weight": 0}, reads=("weight",), writes=("weight", "bias")),  # (o, i) -> (i, o)
    **dict.fromkeys((Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d), _CONV),
    **dict.fromkeys((RNNCell, LSTMCell, GRUCell), _CELL),
    **dict.fromkeys((RNN, LSTM, GRU), Rule(names=_cells)),
    BatchNorm1d: Rule(extra=_COUNT, reads=_STATISTICS, writes=_STATISTICS),
    BatchNorm2d: Rule(extra=_COUNT),
    LayerNorm: Rule(reads=_NORM, writes=_NORM),
    MultiHeadAttention: Rule(names={"in_proj.weight": "in_proj_weight", "in_proj.bias": "in_proj_bias"}),
    TransformerEncoderLayer: Rule(names={"attention": "self_attn"}),
    TransformerDecoderLayer: Rule(names={"attention": "self_attn", "cross_attention": "multihead_attn"}),
    PositionalEncoding: Rule(own=("table",)),
}
"""By layer; what holds for one holds for its subclasses. A layer of your own has a rule by `RULES[Layer] = Rule(...)`."""


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    model: Module,
    *,
    names: Names | None = None,
    flattened: Mapping[str, int] | None = None,
    unflattened: Mapping[str, int] | None = None,
    strict: bool = True,
) -> tuple[list[str], list[str]]:
    """Take the state of a PyTorch model: a safetensors file, or a mapping of its names to arrays or PyTorch tensors.

    `names` renames modules and tensors, {"theirs": "ours"}, where attributes are called differently; "" is the model itself.
    `flattened` has the layers that read flattened images, by their names here, with the channels of these images, and
    `unflattened` those that write what becomes images; a layer with 1 does not.

    Returns the names, PyTorch's, that are missing and those that are unexpected: none, if `strict`.

    Raises:   StateError that lists all that is missing, unexpected, or of another shape or dtype; nothing is loaded then
              ArgumentError where a layer may read or write flattened images and nothing is said of it
              CheckpointError for a file that is missing, truncated or none of safetensors
    """
    entries, extra = _correspondence(model, names, flattened, unflattened)
    given = {name: _as_array(value) for name, value in (source if isinstance(source, Mapping) else _read(source)).items()}
    found = [entry for entry in entries if entry.name in given]
    missing = [entry.name for entry in entries if all(entry.value is not other.value for other in found)]
    unexpected = sorted(given.keys() - {entry.name for entry in entries} - extra.keys())
    wrong, torn = [], []
    new: dict[int, Array] = {}
    for entry in found:
        array = given[entry.name]
        if (form := f"{array.dtype}{list(array.shape)}") != entry.form:
            wrong.append(f"{entry.name} is {form}, not {entry.form}")
            continue
        value = entry.ours(array)
        first = new.setdefault(id(entry.value), value)
        if first is not value and first.tobytes() != value.tobytes():
            torn.append(entry.name)
    if wrong or torn or (strict and (missing or unexpected)):
        faults = {"missing": missing, "unexpected": unexpected, "misshapen": wrong, "unlike what is shared here": torn}
        raise StateError(
            f"the PyTorch state does not fit {type(model).__name__}; nothing was loaded",
            details={fault: ("; " if which is wrong else ", ").join(which) for fault, which in faults.items() if which},
            hint='names={"theirs": "ours"} renames modules and tensors' if missing and unexpected else None,
        )
    values = [(entry.value, Tensor(new[id(entry.value)], device=entry.value.device)) for entry in found]
    for own, tensor in values:
        own.data = tensor
    return missing, unexpected


def save(
    path: str | os.PathLike[str],
    model: Module,
    *,
    names: Names | None = None,
    flattened: Mapping[str, int] | None = None,
    unflattened: Mapping[str, int] | None = None,
) -> None:
    """Write the state of `model` to a safetensors file that the corresponding PyTorch model loads; arguments as for `load`.

    Raises:   ArgumentError where a layer may read or write flattened images and nothing is said of it
              CheckpointError, with the file untouched, if the disk refuses
    """
    from safetensors.numpy import save as serialized

    from needle_core.checkpoint import replace_file

    state = state_dict(model, names=names, flattened=flattened, unflattened=unflattened)
    replace_file(path, serialized(state, metadata={"format": "pt"}))


def state_dict(
    model: Module,
    *,
    names: Names | None = None,
    flattened: Mapping[str, int] | None = None,
    unflattened: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The state of `model` in PyTorch's names and layouts, shared tensors under all of their names; arguments as for `load`."""
    entries, extra = _correspondence(model, names, flattened, unflattened)
    return {entry.name: np.array(entry.theirs(), order="C") for entry in entries} | extra


def _read(path: str | os.PathLike[str]) -> Mapping[str, Array]:
    from needle_core.checkpoint import read_file

    return read_file(path)[1]


def _as_array(value: Any) -> Array:
    return imported(value) if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray) else np.asarray(value)


# -- a tensor, here and there -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A tensor of a model: its name in PyTorch, which axis there is the last one here, and the axes of flattened images."""

    name: str
    value: Tensor
    last: int
    images: tuple[tuple[int, int], ...]  # (axis here, channels)

    @property
    def form(self) -> str:
        """Dtype and shape in PyTorch."""
        sizes = list(self.value.shape)
        if sizes:
            sizes.insert(self.last % len(sizes), sizes.pop())
        return f"{self.value.dtype}{sizes}"

    def ours(self, array: Array) -> Array:
        """PyTorch's array as it is here."""
        array = np.moveaxis(array, self.last, -1) if array.ndim else array
        for axis, channels in self.images:
            array = _turned(array, axis, channels)
        return array

    def theirs(self) -> Array:
        """The value as it is in PyTorch."""
        array = self.value.numpy()
        for axis, channels in self.images:
            array = _turned(array, axis, array.shape[axis] // channels)
        return np.moveaxis(array, -1, self.last) if array.ndim else array


def _turned(array: Array, axis: int, rows: int) -> Array:
    """With an axis that counts a table of so many rows by rows counting it by columns."""
    table = np.moveaxis(array, axis, 0)
    n, *rest = table.shape
    return np.moveaxis(table.reshape(rows, n // rows, *rest).swapaxes(0, 1).reshape(table.shape), 0, axis)


# -- a model, here and there ------------------------------------------------------------------------------------------------


def _correspondence(
    model: Module, names: Names | None, flattened: Mapping[str, int] | None, unflattened: Mapping[str, int] | None
) -> tuple[list[_Entry], dict[str, Array]]:
    """All tensors of a model, under all of their names, and what PyTorch has besides."""
    modules = dict(_modules(model))
    rules = {name: _rule(module) for name, module in modules.items()}
    reading, writing = dict(flattened or {}), dict(unflattened or {})
    _check_images(modules, rules, reading, writing)
    renamed = {name: dict(r.names(modules[name]) if callable(r.names) else r.names) for name, r in rules.items()}
    renamed[""].update(_by_ours(names or {}, modules))
    prefix = renamed[""].pop("", "")

    def theirs(place: str, rest: str) -> str:
        """The name in PyTorch of what is called `rest` in the module at `place`; of what is renamed, the longest decides."""
        steps, known = rest.split("."), renamed.get(place, {})
        beginnings = [".".join(steps[:n]) for n in range(len(steps), 0, -1)]
        ours = next((name for name in beginnings if name in known), steps[0])
        inner = rest[len(ours) + 1 :]
        return _join(known.get(ours, ours), inner and theirs(_join(place, ours), inner))

    entries, extra = [], {}
    for place, module in modules.items():
        rule = rules[place]
        for local, value in module._inside():
            if (isinstance(value, Parameter | Buffer) or local in module._leaves) and local not in rule.own:
                images = [(0, reading[place])] if place in reading and local in rule.reads else []
                images += [(-1, writing[place])] if place in writing and local in rule.writes else []
                name = _join(prefix, theirs("", _join(place, local)))
                entries.append(_Entry(name, value, rule.last.get(local, -1), tuple(images)))
        extra.update({_join(prefix, theirs("", _join(place, local))): value for local, value in rule.extra.items()})
    return entries, extra


def _modules(model: Module, name: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Module]]:
    """The modules under all of their names, as PyTorch has them: `named_modules` has each once."""
    yield name, model
    for local, child in model.named_children():
        if id(child) not in above:
            yield from _modules(child, _join(name, local), (*above, id(model)))


def _rule(module: Module) -> Rule:
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), Rule())


def _by_ours(names: Names, modules: Mapping[str, Module]) -> Names:
    """The user's names the other way around. Raises ArgumentError for those that nothing has, and for two of one thing."""
    known = {_join(place, local) for place, module in modules.items() for local, _ in module._inside()}
    known |= {".".join(name.split(".")[:n]) for name in known for n in range(name.count(".") + 1)}
    for theirs, ours in names.items():
        if ours not in known:
            raise ArgumentError(f"names: {type(modules['']).__name__} has nothing that is called {ours!r}, for {theirs!r}")
    if len(set(names.values())) < len(names):
        raise ArgumentError("names: two names of PyTorch's for the same thing", details=dict(names))
    return {ours: theirs for theirs, ours in names.items()}


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


# -- flattened images -------------------------------------------------------------------------------------------------------


def _check_images(
    modules: Mapping[str, Module], rules: Mapping[str, Rule], flattened: Mapping[str, int], unflattened: Mapping[str, int]
) -> None:
    """Raise ArgumentError for what cannot be so, and where a layer may read or write flattened images and nothing is said.

    That is where the features of a layer are a multiple of the channels of images: of the last before it, or of the next.
    """
    for option, said in (("flattened", flattened), ("unflattened", unflattened)):
        for place, channels in said.items():
            n = _features(modules[place], rules[place], option == "flattened") if place in modules else None
            if not n or channels < 1 or n % channels:
                fault = f"has {n} features, no images of {channels} channels" if n else "is no layer of features"
                raise ArgumentError(f"{option}: {place!r} {fault}")
    unsaid: dict[str, str] = {}
    channels = 1
    writers: dict[str, int] = {}
    for place, module in modules.items():
        rule = rules[place]
        if (image := _channels(module)) is not None:
            for writer, n in writers.items():
                if n != image[0] > 1 and n % image[0] == 0 and writer not in unflattened:
                    unsaid[f"unflattened={{{writer!r}: {image[0]}}}"] = f"it writes {n} features before images of {image[0]}"
            channels, writers = image[1], {}
            continue
        read, written = _features(module, rule, True), _features(module, rule, False)
        if read and read != channels > 1 and read % channels == 0 and place not in flattened:
            unsaid[f"flattened={{{place!r}: {channels}}}"] = f"it reads {read} features after images of {channels} channels"
        if rule.last:
            channels, writers = 1, {}
        if written:
            writers[place] = written
    if unsaid:
        raise ArgumentError(
            "PyTorch flattens images with their channels first, Needle with them last; say which layers have such images",
            details=unsaid,
            hint="1 in place of the channels says that a layer has none",
        )


def _features(module: Module, rule: Rule, reading: bool) -> int | None:
    """How many features a layer reads or writes, if it is known."""
    state = dict(module._inside())
    for name in rule.reads if reading else rule.writes:
        if isinstance(state.get(name), Tensor) and state[name].ndim:
            return int(state[name].shape[0 if reading else -1])
    return None


def _channels(module: Any) -> tuple[int, int] | None:
    """How many channels a layer reads and writes of images with their channels last, if it is such a layer."""
    both = getattr(module, "dim", None)
    read, written = getattr(module, "in_channels", both), getattr(module, "out_channels", both)
    last = str(getattr(module, "data_format", "")).endswith("C")
    return (read, written) if last and isinstance(read, int) and isinstance(written, int) else None
