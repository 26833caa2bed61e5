"""The checks of modules on the default device: each layer of needle_core.nn, and what all modules have in common.

Each layer is checked against a reference in float64 NumPy, with parameters and buffers that are drawn at random: an element y
of what it computes may differ by

    u (8 |y| + max_j |x_j|) + gamma(k) sum_j |dy/dx_j| |x_j|,    gamma(k) = k u / (1 - k u)

where the x_j are all inputs, parameters and buffers, and k is how many of them y depends on. Gradients are checked as in
check.py. What must be the same, such as a state that is loaded or numbers drawn from one seed on two devices, is compared bit
for bit.
"""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

import needle_core as ndl
from needle_core import checkpoint, nn
from needle_core.errors import ArgumentError, NeedleError, ShapeError, StateError
from needle_core.plugins import registry
from needle_core.random import default_generator
from needle_core.spec import DTYPES, Device
from needle_core.testing.bounds import ROUNDOFF, compare, jacobian
from needle_core.testing.gradients import GRADIENT_ROUNDS, cotangents
from needle_core.testing.layers import LAYERS
from needle_core.testing.layers.layer import Layer
from needle_core.testing.samples import Array, Case, Check, MismatchError, Sample
from needle_core.testing.transfers import opened

# -- checks -----------------------------------------------------------------------------------------------------------------


def checks_of_modules(seed: int = 0, *, quick: bool = False) -> Iterator[Check]:
    """All checks of modules: (dtypes + 2) for each layer, one of each kind in COMMON.

    The dtypes are float32, and float64 unless `quick`.
    """
    for layer in LAYERS:
        size = Sample(layer.inputs).size
        for dtype in DTYPES_OF_LAYERS[: 1 if quick else None]:
            place = f"{layer.name}/layer/{layer.text}/{dtype}"
            yield Check(place, partial(_check_forward, place, layer, seed, dtype), size)
        for kind, body in {"layer gradient": _check_gradient, "state": _check_state}.items():
            place = f"{layer.name}/{kind}/{layer.text}"
            yield Check(place, partial(body, place, layer, seed), size)
    for kind, common in COMMON.items():
        place = f"modules/{kind}"
        yield Check(place, partial(common, place, seed))


def promised_by_modules(*, quick: bool = False) -> Counter[str]:
    """How many checks of each kind `checks_of_modules` gives."""
    n = len(LAYERS)
    return Counter({"layer": n * (1 if quick else 2), "layer gradient": n, "state": n, **dict.fromkeys(COMMON, 1)})


def _check_forward(place: str, layer: Layer, seed: int, dtype: str) -> None:
    """What a layer computes, against the reference."""
    module, inputs = _drawn(layer, seed, dtype)
    y = module(*inputs)
    arrays, slopes, _ = _linearized(layer, module, inputs)
    u = ROUNDOFF[dtype]
    k = np.count_nonzero(slopes, axis=1)
    sizes = np.abs(np.concatenate([np.ravel(x) for x in arrays if x.dtype.kind == "f"]))
    expected = _reference(layer, module)(*arrays)
    conditions = k * u / (1 - k * u) * (np.abs(slopes) @ sizes)
    compare(place, y, expected, DTYPES[dtype], u * (8 * np.abs(expected) + sizes.max()) + conditions.reshape(expected.shape))


def _check_gradient(place: str, layer: Layer, seed: int) -> None:
    """The gradients of all parameters and floating inputs, for a random cotangent; buffers get none."""
    module, inputs = _drawn(layer, seed, "float64")
    floating = [x for x in inputs if x.dtype.is_floating]
    for x in floating:
        x.requires_grad = True
    _, slopes, doubt = _linearized(layer, module, inputs)  # before the running statistics move
    y = module(*inputs)
    if not y.requires_grad:
        raise MismatchError(f"{place}: no gradient flows through the layer")
    (cotangent,) = cotangents(place, [y])
    y.backward(cotangent)
    g = np.ravel(cotangent.numpy())
    state, first = {name: _leaf(module, name) for name in module.state_dict()}, 0
    for name, t in [*((f"input {i}", x) for i, x in enumerate(floating)), *state.items()]:
        part = slice(first, first := first + t.size)
        if isinstance(t, nn.Buffer):
            if t.grad is not None:
                raise MismatchError(f"{place}: the buffer {name} got a gradient")
            continue
        if t.grad is None:
            raise MismatchError(f"{place}: {name} got no gradient")
        scale = np.max(np.abs(g) @ np.abs(slopes[:, part]), initial=0)
        bound = ROUNDOFF["float64"] * GRADIENT_ROUNDS * scale + np.abs(g) @ doubt[:, part]
        compare(f"{place}/{name}", t.grad, (g @ slopes[:, part]).reshape(t.shape), DTYPES["float64"], bound.reshape(t.shape))


def _check_state(place: str, layer: Layer, seed: int) -> None:
    """A state holds all parameters and buffers, bit for bit, also by way of a file; one that does not fit changes nothing."""
    module, inputs = _drawn(layer, seed)
    state, before = module.state_dict(), _bits(module)
    if set(state) != {name for name, _ in (*module.named_parameters(), *module.named_buffers())}:
        raise MismatchError(f"{place}: the state holds {', '.join(state)}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "state", state)
        read = checkpoint.load(Path(folder) / "state")
    module(*inputs)
    module.load_state_dict(_drawn(layer, seed + 1)[0].state_dict())
    for saved in (state, read):
        other, _ = _drawn(layer, seed + 2)
        tensors = [id(t) for t in (*other.parameters(), *other.buffers())]
        if other.load_state_dict(saved) != ([], []) or _bits(other) != before:
            raise MismatchError(f"{place}: after loading, the state is another")
        if tensors != [id(t) for t in (*other.parameters(), *other.buffers())]:
            raise MismatchError(f"{place}: loading replaced a parameter or buffer by another object")
        wrong: list[dict[str, Any]] = [{**saved, "unexpected": np.zeros(2)}]
        for name, t in state.items():
            wrong.append({n: v for n, v in state.items() if n != name})
            wrong.append(
                {**{n: np.zeros_like(v.numpy()) for n, v in state.items()}, name: np.zeros((*t.shape, 2), t.dtype.numpy)}
            )
        for unfit in wrong:
            _raises(place, StateError, partial(other.load_state_dict, unfit))
            if _bits(other) != before:
                raise MismatchError(f"{place}: a state that did not fit was loaded in part")
    if (
        module.load_state_dict({**state, "unexpected": np.zeros(2)}, strict=False) != ([], ["unexpected"])
        or _bits(module) != before
    ):
        raise MismatchError(f"{place}: loading without `strict` does not load what fits")


class _Nested(nn.Module):
    """Parameters and modules in all places where they are found; a module and a parameter in two."""

    def __init__(self) -> None:
        self.first = nn.Linear(2, 3)
        inner = [nn.Linear(3, 2, bias=False), nn.Buffer([5.0])]
        self.kept: dict[str, Any] = {"scale": nn.Parameter([1.0, 2.0]), "inner": inner, "tied": self.first.bias}
        self.pair = (self.first, nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)))
        self.plain, self.count = ndl.Tensor([3.0]), 3

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        y: ndl.Tensor = self.kept["inner"][0](self.pair[1](self.pair[0](x))) * self.kept["scale"]
        return y


def _check_discovery(place: str, seed: int) -> None:
    """Parameters, buffers and modules are found in attributes, lists, tuples and dicts, each once, in order."""
    model = _Nested()
    found = {
        "parameters": [name for name, _ in model.named_parameters()],
        "buffers": [name for name, _ in model.named_buffers()],
        "modules": [name for name, _ in model.named_modules()],
        "children": [name for name, _ in model.named_children()],
    }
    expected = {
        "parameters": ["kept.scale", "kept.tied", "first.weight", "kept.inner.0.weight", "pair.1.0.weight", "pair.1.0.bias"],
        "buffers": ["kept.inner.1", "pair.1.0.running_mean", "pair.1.0.running_var"],
        "modules": ["", "first", "kept.inner.0", "pair.1", "pair.1.0", "pair.1.1"],
        "children": ["first", "kept.inner.0", "pair.0", "pair.1"],
    }
    if found != expected:
        raise MismatchError(f"{place}: found {found}, not {expected}")
    _raises(place, ArgumentError, lambda: setattr(model.first, "weight", ndl.Tensor(np.zeros((2, 3), np.float32))))
    if not all(p.requires_grad and p.is_leaf for p in model.parameters()) or any(b.requires_grad for b in model.buffers()):
        raise MismatchError(f"{place}: parameters require gradients, and buffers none")


def _check_modes(place: str, seed: int) -> None:
    """`train` and `eval` set the mode of all modules, and only there do layers differ."""
    model = _Nested()
    for change, mode in ((model.eval, False), (model.train, True), (lambda: model.train(False), False)):
        if change() is not model or any(m.training is not mode for m in model.modules()):
            raise MismatchError(f"{place}: not every module is in the mode training={mode}")
    before, x = _bits(model), ndl.Tensor(np.ones((4, 2), np.float32))
    if model(x).tolist() != model(x).tolist() or _bits(model) != before:
        raise MismatchError(f"{place}: in evaluation, a module changes, or depends on chance")


def _check_move(place: str, seed: int) -> None:
    """A module moves with gradients and buffers to every other device that opens and back, its tensors the same objects."""
    model, home = _Nested(), ndl.default_device()
    x = np.random.default_rng(seed).standard_normal((4, 2)).astype(np.float32)
    model(ndl.Tensor(x)).sum().backward()
    tensors, before = [*model.parameters(), *model.buffers()], _bits(model)
    gradients = [p.grad.numpy().tobytes() for p in model.parameters() if p.grad is not None]
    for where in _devices():
        if model.to(where) is not model or any(t.device is not where for t in (*model.parameters(), *model.buffers())):
            raise MismatchError(f"{place}: not everything moved to {where}")
        if [id(t) for t in tensors] != [id(t) for t in (*model.parameters(), *model.buffers())] or _bits(model) != before:
            raise MismatchError(f"{place}: moving to {where} changed more than the device")
        moved = [p.grad for p in model.parameters() if p.grad is not None]
        if [g.numpy().tobytes() for g in moved] != gradients or any(g.device is not where for g in moved):
            raise MismatchError(f"{place}: gradients did not come along to {where}")
        if model.eval()(ndl.Tensor(x, device=where)).device is not where:
            raise MismatchError(f"{place}: on {where} the module computes elsewhere")
    if any(t.device is not home for t in model.to(home).parameters()) or _bits(model) != before:
        raise MismatchError(f"{place}: moving back changed more than the device")


def _check_running_statistics(place: str, seed: int) -> None:
    """BatchNorm's running mean and unbiased variance after three batches; evaluation and a batch of one leave them."""
    rng = np.random.default_rng(seed)
    layer = nn.BatchNorm1d(3, momentum=0.3, dtype="float64")
    mean, var = np.zeros(3), np.ones(3)
    for shape in ((5, 3), (2, 3), (2, 4, 3)):
        x = rng.standard_normal(shape) * [1.0, 10.0, 0.1] + [0.0, 100.0, -1.0]
        layer(ndl.Tensor(x, requires_grad=True))
        mean = 0.7 * mean + 0.3 * x.reshape(-1, 3).mean(0)
        var = 0.7 * var + 0.3 * x.reshape(-1, 3).var(0, ddof=1)
        scale = 64 * ROUNDOFF["float64"] * np.array([4.0, 1e4, 4.0])  # of squares: of what is added up
        compare(f"{place}/mean", layer.running_mean.data, mean, DTYPES["float64"], scale)
        compare(f"{place}/var", layer.running_var.data, var, DTYPES["float64"], scale)
    if any(b.requires_grad or not b.is_leaf for b in layer.buffers()):
        raise MismatchError(f"{place}: running statistics are part of a graph")
    before = _bits(layer)
    _raises(place, ShapeError, lambda: layer(ndl.Tensor(np.ones((1, 3)))))
    layer.eval()(ndl.Tensor(np.ones((1, 3))))
    if _bits(layer) != before:
        raise MismatchError(f"{place}: evaluation, or a batch that was refused, moved running statistics")


def _check_dropout(place: str, seed: int) -> None:
    """Dropout keeps 1 - p of the elements, within 6 standard deviations, scaled by 1 / (1 - p); each call draws anew."""
    n, p = 20_000, 0.25
    layer = nn.Dropout(p, generator=ndl.Generator(seed))
    x = ndl.Tensor(np.random.default_rng(seed).uniform(1, 2, n).astype(np.float32), requires_grad=True)
    first, second = layer(x), layer(x)
    masks = [y.numpy() != 0 for y in (first, second)]
    for y, mask in zip((first, second), masks, strict=True):
        expected = np.where(mask, x.numpy().astype(np.float64) / (1 - p), 0.0)
        compare(f"{place}/scale", y, expected, DTYPES["float32"], 4 * ROUNDOFF["float32"] * expected)
        if abs(mask.mean() - (1 - p)) > 6 * np.sqrt(p * (1 - p) / n):
            raise MismatchError(f"{place}: {mask.mean():.3f} of the elements are kept, not {1 - p}")
    both = (masks[0] & masks[1]).mean()
    if abs(both - (1 - p) ** 2) > 6 * np.sqrt(both * (1 - both) / n):
        raise MismatchError(f"{place}: the masks of two calls are not independent: both keep {both:.3f}")
    first.sum().backward()
    if x.grad is None or not np.array_equal(x.grad.numpy() != 0, masks[0]):
        raise MismatchError(f"{place}: the gradient has another mask than the output")
    again = nn.Dropout(p, generator=ndl.Generator(seed))(x)
    if again.numpy().tobytes() != first.numpy().tobytes():
        raise MismatchError(f"{place}: the same seed gives another mask")


def _check_clipping(place: str, seed: int) -> None:
    """Gradients are scaled down together to a common norm; those within it stay bit for bit."""
    rng = np.random.default_rng(seed)
    gradients = [rng.uniform(1, 2, shape) * scale for shape, scale in (((2, 3), 1.0), ((4,), 10.0), ((), 0.1))]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    params = [ndl.Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    for max_norm in (2 * norm, norm / 4):
        for p, g in zip(params, gradients, strict=True):
            p.grad = ndl.Tensor(g)
        found = ndl.optim.clip_grad_norm(params, float(max_norm))
        compare(f"{place}/norm", found, np.asarray(norm), DTYPES["float64"], np.asarray(32 * ROUNDOFF["float64"] * norm))
        for i, (p, g) in enumerate(zip(params, gradients, strict=True)):
            expected = g * min(max_norm / norm, 1.0)
            bound = 32 * ROUNDOFF["float64"] * expected * (max_norm < norm)
            assert p.grad is not None
            compare(f"{place}/gradient {i}", p.grad, expected, DTYPES["float64"], bound)


def _check_seed(place: str, seed: int) -> None:
    """One seed gives one model and one mask, bit for bit, on every device that opens; another seed gives others."""
    with _default_generators_kept():
        drawn = [_model_from(seed, device) for device in (ndl.default_device(), *_devices())]
        if any(bits != drawn[0] for bits in drawn):
            raise MismatchError(f"{place}: the same seed gives different parameters or masks")
        if any(a == b for a, b in zip(_model_from(seed + 1, ndl.default_device()), drawn[0], strict=True)):
            raise MismatchError(f"{place}: two seeds give the same parameters or masks")


def _model_from(seed: int, device: Device) -> list[bytes]:
    ndl.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 50, device=device), nn.Embedding(7, 9, device=device))
    mask = nn.Dropout(0.5)(ndl.Tensor(np.ones((5, 40)), device=device))
    return [*_bits(model), mask.numpy().tobytes()]


DTYPES_OF_LAYERS: Final = ("float32", "float64")
COMMON: Final[Mapping[str, Callable[[str, int], None]]] = {
    "discovery": _check_discovery,
    "modes": _check_modes,
    "move": _check_move,
    "running statistics": _check_running_statistics,
    "dropout": _check_dropout,
    "clipping": _check_clipping,
    "seed": _check_seed,
}
"""What is checked of modules as such, of layers that have a state or draw numbers, and of what is used with them."""


# -- what the checks are made of --------------------------------------------------------------------------------------------


def _drawn(layer: Layer, seed: int, dtype: str = "float32") -> tuple[nn.Module, list[ndl.Tensor]]:
    """The layer with random parameters and buffers, variances positive, and random inputs."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{layer.name}/{layer.text}".encode())])
    inputs = [i.draw(rng) for i in layer.inputs]
    with _default_generators_kept():
        module = layer.make(dtype)
    values = {}
    for name, t in module.state_dict().items():
        v = rng.uniform(0.5, 1.5, t.shape)
        values[name] = (v if name.endswith("var") else v * rng.choice([-1, 1], t.shape)).astype(t.dtype.numpy)
    module.load_state_dict(values)
    return module, [ndl.Tensor(x.astype(dtype) if x.dtype.kind == "f" else x) for x in inputs]


def _reference(layer: Layer, module: nn.Module) -> Callable[..., Array]:
    """The reference as a function of arrays alone: the inputs, then parameters and buffers."""
    names = list(module.state_dict())

    def f(*arrays: Array) -> Array:
        inputs, state = arrays[: len(layer.inputs)], arrays[len(layer.inputs) :]
        return np.asarray(layer.reference(dict(zip(names, state, strict=True)), *inputs))

    return f


def _linearized(layer: Layer, module: nn.Module, inputs: list[ndl.Tensor]) -> tuple[list[Array], Array, Array]:
    """The numbers that the layer's result depends on, its derivatives by them, and bounds of the errors of these."""
    given = [*inputs, *module.state_dict().values()]
    arrays = [x.numpy().astype(np.float64) if x.dtype.is_floating else x.numpy() for x in given]
    return arrays, *jacobian(Case(layer.name, _reference(layer, module), ()), Sample(()), arrays)


def _leaf(module: nn.Module, name: str) -> ndl.Tensor:
    return dict([*module.named_parameters(), *module.named_buffers()])[name]


def _bits(module: nn.Module) -> list[bytes]:
    return [v.numpy().tobytes() for v in module.state_dict().values()]


def _raises(place: str, error: type[NeedleError], call: Callable[[], object]) -> None:
    try:
        call()
    except error:
        return
    raise MismatchError(f"{place}: {error.__name__} was not raised")


def _devices() -> list[Device]:
    """The first device of every installed backend that opens, except for the default device."""
    return [d for d in opened(registry.names("backends")) if d is not ndl.default_device()]


@contextmanager
def _default_generators_kept() -> Iterator[None]:
    """Within it, numbers are drawn as one likes; afterwards the default generators are where they were."""
    kept = [(g := default_generator(d), g.state.data) for d in (ndl.default_device(), *_devices())]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.state.data = state
