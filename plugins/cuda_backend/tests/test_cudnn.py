"""Convolutions and attention through the interface of `cudnn`, computed by the module that stands in for it on the CPU."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import numpy as np
import pytest

from needle_core.errors import KernelError
from needle_core.spec import DType, bfloat16, float16, float32, float64, int32
from needle_cuda_backend.cudnn import Attention, Convolution, Cudnn, attention, self_attention, supports
from needle_cuda_backend.simulated import cudnn as simulated

pytestmark = pytest.mark.once

UNIT = {float16: 2.0**-11, bfloat16: 2.0**-8, float32: 2.0**-24}  # half of the last place
OPERANDS = {"forward": ("x", "weight", "y"), "input_grad": ("y", "weight", "x"), "weight_grad": ("y", "x", "weight")}
Sizes = tuple[int, ...]


@pytest.fixture
def dnn() -> Iterator[Cudnn]:
    made = Cudnn(simulated)
    yield made
    made.close()


def aligned(values: Any, dtype: DType) -> np.ndarray:
    """A copy at a multiple of 256 bytes."""
    values = np.asarray(values).astype(dtype.numpy)
    memory = np.zeros(values.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    array = memory[start : start + values.nbytes].view(dtype.numpy).reshape(values.shape)
    array[...] = values
    return array


def draw(shape: Sizes, dtype: DType, seed: int = 0) -> np.ndarray:
    return aligned(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def run(dnn: Cudnn, x: Convolution | Attention, arrays: Sequence[np.ndarray], offsets: Sequence[int] | None = None) -> None:
    prepared = dnn.prepare(x)
    workspace = aligned(np.zeros(prepared.workspace_bytes), int32)
    starts = offsets or [0] * len(arrays)
    addresses = [a.ctypes.data + start * a.itemsize for a, start in zip(arrays, starts, strict=True)]
    dnn.run(prepared, addresses, workspace.ctypes.data, 7)


def agree(y: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, terms: int, dtype: DType) -> None:
    """y is the expected up to float32 sums of so many terms of this magnitude, rounded to the dtype."""
    bound = (terms + 2) * UNIT[float32] * magnitude + UNIT[dtype] * abs(expected) + 2.0**-25
    assert (abs(np.asarray(y, np.float64) - expected) <= bound).all()


SOMEWHERE = aligned(np.zeros(512), float32)

# -- convolutions -----------------------------------------------------------------------------------------------------------


def convolution(
    kind: Any, dtype: DType, x: Sizes, size: Sizes, o: int, *, stride: Any = 1, before: Any = 0, after: Any = None,
    dilation: Any = 1, groups: int = 1, **more: Any,
) -> Convolution:  # fmt: skip
    n, *s, c = x
    after = before if after is None else after
    steps, first, last, apart = (v if isinstance(v, tuple) else (v,) * len(s) for v in (stride, before, after, dilation))
    each = zip(s, size, steps, first, last, apart, strict=True)
    t = [(m + a + b - d * (k - 1) - 1) // e + 1 for m, k, e, a, b, d in each]
    return Convolution(kind, dtype, x, (o, *size, c // groups), (n, *t, o), steps, first, last, apart, groups, **more)


def by_definition(x: Convolution, arrays: dict[str, np.ndarray], absolute: bool = False) -> np.ndarray:
    """What the docstring of Convolution says, in float64; or the sum of the absolute terms."""
    operands = {k: abs(v.astype(np.float64)) if absolute else v.astype(np.float64) for k, v in arrays.items()}
    pairs = [(0, 0), *zip(x.before, x.after, strict=True), (0, 0)]
    padded = tuple(n + sum(p) for n, p in zip(x.x, pairs, strict=True))
    image = np.pad(operands["x"], pairs) if "x" in operands else np.zeros(padded)
    weight, y = (operands.get(name, np.zeros(getattr(x, name))) for name in ("weight", "y"))
    inner, outer = x.weight[-1], x.weight[0] // x.groups
    for place in np.ndindex(*x.weight[1:-1]):
        steps = zip(place, x.dilation, x.stride, x.y[1:-1], strict=True)
        seen = tuple(slice(k * d, k * d + (t - 1) * s + 1, s) for k, d, s, t in steps)
        for group in range(x.groups):
            c, o = slice(group * inner, (group + 1) * inner), slice(group * outer, (group + 1) * outer)
            if x.kind == "forward":
                y[..., o] += image[:, *seen, c] @ weight[o, *place].T
            elif x.kind == "input_grad":
                image[:, *seen, c] += y[..., o] @ weight[o, *place]
            else:
                weight[o, *place] += y[..., o].reshape(-1, outer).T @ image[:, *seen, c].reshape(-1, inner)
    trimmed = image[:, *(slice(b, b + n) for b, n in zip(x.before, x.x[1:-1], strict=True))]
    return {"forward": y, "input_grad": trimmed, "weight_grad": weight}[x.kind]


GEOMETRIES: dict[str, tuple[Sizes, Sizes, int, dict[str, Any]]] = {
    "plain": ((2, 6, 5, 3), (3, 3), 4, {}),
    "same": ((2, 6, 5, 8), (3, 3), 8, {"before": 1}),
    "one element": ((1, 1, 1, 1), (1, 1), 1, {}),
    "pointwise": ((3, 4, 4, 5), (1, 1), 6, {}),
    "stride": ((2, 7, 8, 3), (3, 2), 4, {"stride": (2, 3)}),
    "rows that no window sees": ((2, 8, 8, 2), (3, 3), 3, {"stride": 3}),
    "more padding after": ((2, 6, 6, 4), (3, 3), 4, {"stride": 2, "before": 0, "after": 1}),
    "more padding before": ((2, 6, 5, 4), (3, 4), 4, {"before": (2, 3), "after": (0, 1)}),
    "padding beyond the window": ((1, 3, 3, 2), (2, 2), 2, {"before": 3}),
    "dilation": ((2, 9, 8, 3), (3, 2), 4, {"dilation": (2, 3), "before": 1}),
    "groups": ((2, 5, 5, 6), (3, 3), 9, {"groups": 3}),
    "depthwise": ((2, 5, 5, 6), (3, 3), 6, {"groups": 6, "before": 1}),
    "depthwise, two each": ((2, 5, 5, 6), (3, 3), 12, {"groups": 6, "stride": 2}),
    "one axis": ((3, 11, 4), (3,), 5, {"stride": 2, "before": 1, "after": 2, "dilation": 2}),
    "one axis in groups": ((3, 11, 4), (4,), 6, {"groups": 2}),
    "three axes": ((2, 4, 5, 6, 3), (2, 3, 2), 4, {"stride": (1, 2, 1), "before": (1, 0, 1), "after": (0, 1, 1)}),
    "three axes in groups": ((1, 4, 4, 4, 4), (2, 2, 2), 6, {"groups": 2, "dilation": (1, 2, 1)}),
    "window over all": ((4, 5, 5, 2), (5, 5), 3, {}),
}


def convolved(dnn: Cudnn, x: Convolution) -> None:
    """Run it and compare with the definition."""
    *inputs, result = OPERANDS[x.kind]
    arrays = {name: draw(getattr(x, name), x.dtype, seed) for seed, name in enumerate(inputs)}
    out = aligned(np.full(getattr(x, result), np.nan), x.dtype)
    run(dnn, x, [*arrays.values(), out])
    terms = {"forward": math.prod(x.weight[1:]), "input_grad": math.prod(x.weight[:-1]), "weight_grad": math.prod(x.y[:-1])}
    agree(out, by_definition(x, arrays), by_definition(x, arrays, absolute=True), terms[x.kind], x.dtype)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolutions_are_what_their_definition_says(dnn: Cudnn, geometry: str, kind: str, dtype: DType) -> None:
    shape, size, o, more = GEOMETRIES[geometry]
    x = convolution(kind, dtype, shape, size, o, **more)
    assert supports(x)
    convolved(dnn, x)


@pytest.mark.parametrize("kind", OPERANDS)
def test_many_images_are_convolved_some_at_a_time(dnn: Cudnn, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_MOST_COLUMNS", 2000)
    convolved(dnn, convolution(kind, float32, (9, 6, 5, 4), (3, 3), 4, before=1, groups=2))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": float64}, {"dtype": int32}, {"groups": 2}, {"groups": 3}, {"x": (0, 5, 5, 3)}, {"y": (2, 0, 3, 4)},
        {"x": (2, 3), "y": (2, 4), "weight": (4, 3)}, {"x": (2, 5, 5, 5, 5, 3)}, {"x": (2**12, 2**10, 2**9, 3)},
    ],
    ids=str,
)  # fmt: skip
def test_what_cudnn_has_no_engine_for_is_not_supported(change: dict[str, Any]) -> None:
    assert not supports(convolution("forward", float32, (2, 5, 5, 3), (3, 3), 4)._replace(**change))


# -- attention --------------------------------------------------------------------------------------------------------------


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, causal: bool, g: np.ndarray) -> list[np.ndarray]:
    """y and the gradients for q, k, v, in float64."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    scores = q @ k.mT * scale
    if causal:
        t, s = scores.shape[-2:]
        scores[..., np.arange(s) > np.arange(t)[:, None] + s - t] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    y = weights @ v
    by_scores = weights * (g @ v.mT - (g * y).sum(axis=-1, keepdims=True)) * scale
    return [y, by_scores @ k, by_scores.mT @ q, weights.mT @ g]


def near(y: np.ndarray, expected: np.ndarray, dtype: DType) -> None:
    """Up to the rounding of y and of the forward pass's result, which the gradients are computed from."""
    assert abs(np.asarray(y, np.float64) - expected).max() <= 4 * UNIT[dtype] * max(1.0, abs(expected).max())


SHAPES = [((2, 3, 5, 8), (2, 3, 9, 8)), ((2, 3, 16, 16), (2, 3, 16, 16)), ((4, 8), (6, 8)), ((7, 1, 24), (7, 4, 24))]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_attention_and_its_gradients(dnn: Cudnn, shapes: tuple[Sizes, Sizes], dtype: DType, causal: bool) -> None:
    q, k, v, g = (draw(shape, dtype, i) for i, shape in enumerate((shapes[0], shapes[1], shapes[1], shapes[0])))
    y, *gradients = expected = attended(q, k, v, 0.3, causal, g)
    outs = [aligned(np.full(x.shape, np.nan), dtype) for x in expected]
    for backward, arrays in ((False, [q, k, v, outs[0]]), (True, [g, q, k, v, *outs[1:]])):
        description = attention(dtype, q.shape, k.shape, v.shape, scale=0.3, causal=causal, backward=backward)
        assert description is not None
        assert supports(description)
        run(dnn, description, arrays)
    for out, x in zip(outs, (y, *gradients), strict=True):
        near(out, x, dtype)


def by_heads(x: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """(*b, t, parts h d) as (parts, *b, h, t, d)."""
    return np.moveaxis(x.reshape(*x.shape[:-1], parts, heads, -1), (-3, -2), (0, -3))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 48), (7, 144), (2, 3, 4, 96)], ids=str)
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_self_attention_reads_and_writes_parts_side_by_side(dnn: Cudnn, dtype: DType, shape: Sizes, causal: bool) -> None:
    heads, width = 2, shape[-1] // 3
    x, g = draw(shape, dtype), draw((*shape[:-1], width), dtype, 1)
    y, gradient = aligned(np.full(g.shape, np.nan), dtype), aligned(np.full(shape, np.nan), dtype)
    q, k, v = by_heads(x, 3, heads)
    expected = attended(q, k, v, 0.25, causal, by_heads(g, 1, heads)[0])
    forward, starts = self_attention(dtype, shape, heads=heads, scale=0.25, causal=causal)
    backward, _ = self_attention(dtype, shape, heads=heads, scale=0.25, causal=causal, backward=True)
    assert starts == (0, width, 2 * width)
    assert supports(forward)
    assert supports(backward)
    run(dnn, forward, [x, x, x, y], [*starts, 0])
    run(dnn, backward, [g, x, x, x, gradient, gradient, gradient], [0, *starts, *starts])
    near(by_heads(y, 1, heads)[0], expected[0], dtype)
    for part, reference in zip(by_heads(gradient, 3, heads), expected[1:], strict=True):
        near(part, reference, dtype)


PLAIN = Attention(bfloat16, 2, 3, 4, 6, 8, 0.3, False, (96, 32, 8), (144, 48, 8), (144, 48, 8), (96, 32, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": float32}, {"width": 12}, {"width": 0}, {"width": 264}, {"width": 136, "backward": True}, {"batch": 0},
        {"keys": 0}, {"queries": 7, "causal": True}, {"keys": 1, "backward": True}, {"k": (0, 48, 8)},
        {"width": 136, "queries": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_cudnn_does_not_attend_to_is_not_supported(change: dict[str, Any]) -> None:
    assert supports(PLAIN)
    assert not supports(PLAIN._replace(**change))


@pytest.mark.parametrize(
    "shapes", [((2, 4, 8), (1, 4, 8), (2, 4, 8)), ((4, 8), (4, 8), (4, 16)), ((2, 4, 8), (4, 8), (4, 8))], ids=str
)
def test_attention_that_is_broadcast_has_no_description(shapes: tuple[Sizes, Sizes, Sizes]) -> None:
    assert attention(bfloat16, *shapes, scale=1.0) is None


# -- what reaches the library -----------------------------------------------------------------------------------------------


class Recorder:
    """The stand-in, which says what is called: (name, arguments by name)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(simulated, name)

    def pygraph(self, **settings: Any) -> Any:
        self.calls.append(("pygraph", settings))
        graph = simulated.pygraph(**settings)
        for name, method in inspect.getmembers(graph, inspect.ismethod):
            if not name.startswith("_"):
                setattr(graph, name, self._recording(name, method))
        return graph

    def _recording(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, inspect.signature(method).bind(*arguments, **named).arguments))
            return method(*arguments, **named)

        return call

    def all(self, name: str) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called == name]


def recorded(x: Convolution | Attention, **settings: Any) -> Recorder:
    recorder = Recorder()
    Cudnn(recorder, **settings).prepare(x)
    return recorder


def test_images_are_told_in_cudnn_s_order_with_channels_last() -> None:
    asked = recorded(
        convolution("forward", float16, (2, 6, 5, 4), (3, 3), 8, before=(1, 2), after=(0, 1), stride=(1, 2), groups=2)
    )
    x, weight = asked.all("tensor")
    assert (x["dim"], x["stride"]) == ([2, 4, 6, 5], [120, 1, 20, 4])
    assert (weight["dim"], weight["stride"]) == ([8, 2, 3, 3], [18, 1, 6, 2])
    (windows,) = asked.all("conv_fprop")
    assert [windows[name] for name in ("pre_padding", "post_padding", "stride", "dilation")] == [[1, 2], [0, 1], [1, 2], [1, 1]]


def test_one_axis_is_the_second_of_two() -> None:
    asked = recorded(convolution("weight_grad", float32, (2, 9, 4), (3,), 8, before=1, stride=2, dilation=2))
    g, x = asked.all("tensor")
    assert (x["dim"], x["stride"]) == ([2, 4, 1, 9], [36, 1, 36, 4])
    assert (g["dim"], g["stride"]) == ([2, 8, 1, 4], [32, 1, 32, 8])
    (windows,) = asked.all("conv_wgrad")
    assert [windows[name] for name in ("pre_padding", "post_padding", "stride", "dilation")] == [[0, 1], [0, 1], [1, 2], [1, 2]]


def test_sums_are_float32_whatever_is_summed() -> None:
    for dtype, name in ((float16, "HALF"), (bfloat16, "BFLOAT16"), (float32, "FLOAT")):
        (settings,) = recorded(convolution("forward", dtype, (2, 5, 5, 4), (3, 3), 8)).all("pygraph")
        assert settings["io_data_type"] is simulated.data_type[name]
        assert settings["compute_data_type"] is settings["intermediate_data_type"] is simulated.data_type.FLOAT


@pytest.mark.parametrize(
    ("dtype", "tf32", "refused"), [(float32, False, True), (float32, True, False), (bfloat16, False, False)]
)
def test_tensor_cores_round_float32_only_on_request(dtype: DType, tf32: bool, refused: bool) -> None:
    (without,) = recorded(convolution("forward", dtype, (2, 5, 5, 4), (3, 3), 8, tf32=tf32)).all("deselect_numeric_notes")
    assert (simulated.numerical_note.TENSOR_CORE in without["notes"]) is refused
    assert simulated.numerical_note.REDUCED_PRECISION_REDUCTION in without["notes"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_bits_repeat_unless_they_need_not(deterministic: bool) -> None:
    asked = recorded(convolution("weight_grad", float32, (2, 5, 5, 4), (3, 3), 8), deterministic=deterministic)
    assert (simulated.numerical_note.NONDETERMINISTIC in asked.all("deselect_numeric_notes")[0]["notes"]) is deterministic
    asked = recorded(PLAIN._replace(backward=True), deterministic=deterministic)
    assert asked.all("sdpa_backward")[0]["use_deterministic_algorithm"] is deterministic


@pytest.mark.parametrize(("queries", "corner"), [(4, "BOTTOM_RIGHT"), (6, "TOP_LEFT")])
def test_the_last_query_is_at_the_last_key(queries: int, corner: str) -> None:
    (asked,) = recorded(PLAIN._replace(causal=True, queries=queries)).all("sdpa")
    assert asked["diagonal_alignment"] is simulated.diagonal_alignment[corner]
    assert asked["diagonal_band_right_bound"] == 0
    assert "diagonal_band_right_bound" not in recorded(PLAIN).all("sdpa")[0]


def test_the_forward_pass_keeps_statistics_for_the_backward_pass_alone() -> None:
    assert recorded(PLAIN).all("sdpa")[0]["generate_stats"] is False
    assert recorded(PLAIN._replace(backward=True)).all("sdpa")[0]["generate_stats"] is True


def test_a_stream_is_set_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[int] = []
    monkeypatch.setattr(simulated, "set_stream", lambda handle, stream: streams.append(stream))
    dnn, x = Cudnn(simulated), convolution("forward", float32, (1, 1, 1, 1), (1, 1), 1)
    prepared, place = dnn.prepare(x), SOMEWHERE.ctypes.data
    for stream in (3, 3, 4, 4, 3):
        dnn.run(prepared, [place, place, place], place, stream)
    assert streams == [3, 4, 3]


# -- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": (2, 3, 2, 4)}, "the result has the sizes"),
        ({"weight": (5, 3, 3, 2)}, "do not make 5"),
        ({"weight": (4, 3, 3, 2)}, "do not make"),
        ({"before": (1,)}, "windows over"),
        ({"x": (2, 0, 5, 3)}, "sizes"),
    ],
    ids=str,
)
def test_what_cudnn_refuses_is_named(dnn: Cudnn, change: dict[str, Any], said: str) -> None:
    x = convolution("forward", float32, (2, 5, 5, 3), (3, 3), 4)._replace(**change)
    with pytest.raises(KernelError, match=f"cuDNN refuses prepare: .*{said}") as caught:
        dnn.prepare(x)
    assert caught.value.details == {"description": x}
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("change", [{"width": 12}, {"queries": 7, "causal": True}], ids=str)
def test_attention_that_cudnn_refuses_is_named(dnn: Cudnn, change: dict[str, Any]) -> None:
    with pytest.raises(KernelError, match="cuDNN refuses prepare"):
        dnn.prepare(PLAIN._replace(**change))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("address", [0, 8], ids=["nowhere", "misaligned"])
def test_operands_and_workspace_are_somewhere(dnn: Cudnn, place: int, address: int) -> None:
    prepared = dnn.prepare(convolution("forward", float32, (1, 1, 1, 1), (1, 1), 1))
    *operands, workspace = [SOMEWHERE.ctypes.data if i != place else address for i in range(4)]
    with pytest.raises(KernelError, match="cuDNN refuses run"):
        dnn.run(prepared, operands, workspace, 0)


def test_each_operand_has_an_address(dnn: Cudnn) -> None:
    prepared = dnn.prepare(convolution("forward", float32, (1, 1, 1, 1), (1, 1), 1))
    with pytest.raises(KernelError, match="cuDNN refuses run"):
        dnn.run(prepared, [256, 256], 256, 0)


def test_a_handle_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("cudnnCreate failed with code: 1")

    monkeypatch.setattr(simulated, "create_handle", fail)
    with pytest.raises(KernelError, match="cuDNN refuses the handle: cudnnCreate failed"):
        Cudnn(simulated)


def test_closing_twice_is_closing(dnn: Cudnn) -> None:
    x = convolution("forward", float32, (1, 1, 1, 1), (1, 1), 1)
    prepared, place = dnn.prepare(x), SOMEWHERE.ctypes.data
    dnn.close()
    dnn.close()
    with pytest.raises(KernelError, match="cuDNN refuses run"):
        dnn.run(prepared, [place, place, place], place, 0)


# -- the stand-in against the package that it stands in for -----------------------------------------------------------------


def parameters(function: Any) -> list[set[str]]:
    """The names that each overload of a function of the real package takes: its own, or those that pybind11 documents."""
    if inspect.isfunction(function):
        return [set(inspect.signature(function).parameters)]
    lines = re.findall(rf"^(?:\d+\. )?{function.__name__}\((.*)\) ->", function.__doc__ or "", re.MULTILINE)
    return [set(re.findall(r"(?:^|, )(\w+):", line)) for line in lines]


@pytest.mark.parametrize("owner", ["pygraph", "tensor", None], ids=str)
def test_the_real_package_takes_what_the_stand_in_takes(owner: str | None) -> None:
    real = pytest.importorskip("cudnn")
    theirs, ours = (real, simulated) if owner is None else (getattr(real, owner), getattr(simulated, owner))
    names = [n for n, f in vars(ours).items() if inspect.isfunction(f) and (not n.startswith("_") or n == "__init__")]
    for name in names if owner else ("create_handle", "destroy_handle", "set_stream"):
        if (owner, name) in (("tensor", "__init__"), ("tensor", "at")):  # tensors are made by graphs
            continue
        taken = [p for p in inspect.signature(getattr(ours, name)).parameters.values() if p.name != "self"]
        offered = parameters(getattr(theirs, name))
        wanted = {f"arg{i}" if p.kind is p.POSITIONAL_ONLY else p.name for i, p in enumerate(taken)}
        assert any(wanted <= overload for overload in offered), f"{name}: {wanted} of {offered}"


def test_the_real_package_has_the_names_of_the_stand_in() -> None:
    real = pytest.importorskip("cudnn")
    enums = {name: kind for name, kind in vars(simulated).items() if isinstance(kind, type(Enum)) and kind is not Enum}
    assert len(enums) == 4
    for name, kind in enums.items():
        assert set(kind.__members__) <= set(getattr(real, name).__members__)
    assert issubclass(real.cudnnGraphNotSupportedError, Exception)
