"""Bugs of ops: in gradient rules, kernels, bodies, front doors, and in the engine that applies them."""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np

import needle_core as ndl
from needle_core import autograd, doors
from needle_core.doors import reduced
from needle_core.op import OPS
from tests.mutants.planting import Mutant, attribute, body, kernel, rule, together

# -- gradient rules ---------------------------------------------------------------------------------------------------------


def _one_element_less(r: Any) -> Any:
    def wrong(g: Any, y: Any, x: Any) -> Any:
        factor = np.ones(x.shape, x.dtype.numpy)
        factor.reshape(-1)[-1:] = 0.999
        return r(g, y, x) * ndl.Tensor(factor, device=x.device)

    return wrong


def _times(factor: float) -> Any:
    return lambda r: lambda g, y, *inputs, **attrs: r(g, y, *inputs, **attrs) * factor


def _first_of_broadcast(_: Any) -> Any:
    def wrong(g: Any, spec: Any) -> Any:
        extra = g.ndim - len(spec.shape)
        return g[(0,) * extra + tuple(slice(0, n) for n in spec.shape)]

    return wrong


def _for_each_tie(_: Any) -> Any:
    def wrong(g: Any, y: Any, x: Any, axes: Any, keepdims: bool) -> Any:
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return ndl.where(x == y.reshape(kept), g.reshape(kept), 0)

    return wrong


def _by_quotient(_: Any) -> Any:
    def wrong(g: Any, y: Any, x: Any, axes: Any, keepdims: bool) -> Any:
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return (g * y).reshape(kept) / x

    return wrong


def _spoiled_by_the_other(_: Any) -> Any:
    return lambda g, y, c, a, b: g * c.astype(g.dtype) + 0 * a


def _tripled_below_float64(r: Any) -> Any:
    return lambda g, y, x: r(g, y, x) * (1 if x.dtype is ndl.float64 else 3)


def _second_derivative_a_little_more(_: Any) -> Any:
    return lambda g, y, x: g * (1 - y * (y + 1e-9 * (y - y.detach())))


def _without_count(_: Any) -> Any:
    def wrong(g: Any, y: Any, x: Any, axes: Any, keepdims: bool) -> Any:
        return g.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape))) + ndl.zeros_like(x)

    return wrong


# -- kernels ----------------------------------------------------------------------------------------------------------------


def _swallowing_nan(_: Any) -> Any:
    return lambda a, b: np.where(a > b, a, b)


def _skipping_nan(_: Any) -> Any:
    return lambda x, *, axes, keepdims: np.fmax.reduce(x, axis=axes, keepdims=keepdims)


def _from_zero(_: Any) -> Any:
    return lambda x: np.asarray(0 - x, x.dtype)


def _truncated(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        if a.dtype.kind != "i":
            return f(a, b)
        return np.asarray(np.where((a % np.where(b == 0, 1, b) != 0) & ((a < 0) != (b < 0)), f(a, b) + 1, f(a, b)), a.dtype)

    return wrong


def _sign_of_the_dividend(f: Any) -> Any:
    return lambda a, b: np.fmod(a, b)


def _half_up(f: Any) -> Any:
    return lambda x: np.floor(x + x.dtype.type(0.5)) if x.dtype.kind not in "iu" else f(x)


def _to_nearest(f: Any) -> Any:
    def wrong(x: Any, *, dtype: Any) -> Any:
        return f(np.rint(x) if x.dtype.kind == "f" and dtype.is_integer else x, dtype=dtype)

    return wrong


def _last_of_equals(_: Any) -> Any:
    def wrong(x: Any, *, axis: Any, keepdims: bool) -> Any:
        n = x.size if axis is None else x.shape[axis]
        return n - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=keepdims)

    return wrong


def _unstable_order(f: Any) -> Any:
    def wrong(x: Any, *, axis: int, descending: bool) -> Any:
        y = f(np.flip(x, axis), axis=axis, descending=descending)
        return x.shape[axis] - 1 - y

    return wrong


def _without_shift(_: Any) -> Any:
    def wrong(x: Any, *, axes: Any) -> Any:
        e = np.exp(x)
        return np.asarray(e / e.sum(axes, keepdims=True), x.dtype)

    return wrong


def _epsilon_of_another(f: Any) -> Any:
    return lambda x, weight, bias, *, eps: f(x, weight, bias, eps=100 * eps)


def _overwriting(_: Any) -> Any:
    def wrong(x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
        y = x.copy()
        y[(slice(None),) * axis + (indices,)] += updates
        return y

    return wrong


def _wrapping(_: Any) -> Any:
    return lambda x, indices, *, axis: np.take(x, indices, axis, mode="wrap")


def _one_off(f: Any) -> Any:
    def wrong(x: Any, *, width: Any, value: float, dilation: Any) -> Any:
        return f(x, width=tuple((a + 1, b - 1) if b else (a, b) for a, b in width), value=value, dilation=dilation)

    return wrong


def _integers_by_way_of_float32(f: Any) -> Any:
    def wrong(x: Any, **attrs: Any) -> Any:
        return f(x.astype(np.float32), **attrs).astype(x.dtype) if x.dtype.kind in "iu" else f(x, **attrs)

    return wrong


def _zero_of_nothing(f: Any) -> Any:
    def wrong(x: Any, *, axes: Any, keepdims: bool) -> Any:
        return f(x, axes=axes, keepdims=keepdims) if x.size else np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)

    return wrong


def _never_kept(f: Any) -> Any:
    return lambda x, *, axes, keepdims: f(x, axes=axes, keepdims=False)


def _of_the_least(f: Any) -> Any:
    return lambda x: f(np.where(x == 0, np.finfo(x.dtype).tiny, x)) if x.dtype.char in "fd" else f(x)


def _of_zero_too(f: Any) -> Any:
    return lambda x: np.asarray(np.where(x == 0, 1, f(x)), x.dtype)


def _by_definition(_: Any) -> Any:
    return lambda x: np.asarray((np.exp(x) + np.exp(-x)) / 2, x.dtype)


def _of_negative_bases(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = f(a, b)
        return y if y.dtype == np.float64 or y.dtype.kind in "iu" else np.where(a < 0, 1.3 * y, y).astype(y.dtype)

    return wrong


def _five_for_infinity(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = f(a, b)
        if y.dtype != np.float32:
            return y
        return np.where(np.isinf(y) & np.isfinite(a) & np.isfinite(b), np.copysign(5, y), y).astype(y.dtype)

    return wrong


def _saturating(f: Any) -> Any:
    def wrong(a: Any, b: Any) -> Any:
        y = f(a, b)
        if y.dtype != np.float32:
            return y
        top = np.finfo(y.dtype).max
        return np.where(np.isfinite(a) & np.isfinite(b), np.clip(y, -top, top), y)

    return wrong


def _wrong_from_40_on(f: Any) -> Any:
    def wrong(*xs: Any) -> Any:
        y = f(*xs)
        middle = (np.abs(xs[0]) > 40) & (np.abs(xs[0]) < 1e6)
        return np.where(middle, y * y.dtype.type(1.5), y) if y.dtype.char in "fd" else y

    return wrong


def _integers_by_way_of_float64(f: Any) -> Any:
    def wrong(*xs: Any) -> Any:
        return np.asarray(f(*(x.astype(np.float64) if x.dtype == np.int64 else x for x in xs))).astype(f(*xs).dtype)

    return wrong


# -- bodies and doors -----------------------------------------------------------------------------------------------------


def _nan_of_nothing_but_inf(right: Any) -> Any:
    def wrong(x: Any, *, axes: Any, keepdims: bool) -> Any:
        if not x.size:
            return right(x, axes=axes, keepdims=keepdims)
        top = ndl.max(x, axes=axes, keepdims=True)
        total = ndl.log(ndl.sum(ndl.exp(x - top), axes=axes, keepdims=True)) + top
        return total if keepdims else total.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))

    return wrong


def _overflowing(_: Any) -> Any:
    return lambda x: ndl.log(1 + ndl.exp(x))


def _no_minimum(door: Any) -> Any:
    return wraps(door)(reduced)


def _at_the_ends(right: Any) -> Any:
    return lambda x: ndl.where(abs(x) == 1, 27 * right(x), right(x)) if x.dtype is ndl.float16 else right(x)


def _cancelling(_: Any) -> Any:
    return lambda x: np.exp(x) - x.dtype.type(1)


def _unchecked_shapes(door: Any) -> Any:
    @wraps(door)
    def wrong(x: Any, target: Any, *, reduction: str = "mean") -> Any:
        return door(x, x, reduction=reduction)

    return wrong


def _silent(door: Any) -> Any:
    @wraps(door)
    def wrong(x: Any, *, approximate: str = "none") -> Any:
        return x, {"approximate": approximate}

    return wrong


def _one_before(normalize: Any) -> Any:
    return lambda axis, ndim: (normalize(axis, ndim) + (ndim - 1 if axis < 0 else 0)) % max(ndim, 1)


def _always_float64(door: Any) -> Any:
    @wraps(door)
    def wrong(a: Any, b: Any) -> Any:
        spec, attrs = door(a, b)
        return (spec.like(dtype=ndl.float64) if a.dtype.kind == "int" else spec), attrs

    return wrong


MUTANTS = [
    Mutant("gradient times 1.0005", "The gradient is a little too large.", rule("tanh", 0, _times(1.0005)), ("tanh",)),
    Mutant("one element of the gradient low", "One element of the gradient lacks a thousandth.",
           rule("exp", 0, _one_element_less), ("exp",)),
    Mutant("factor 2", "The gradient of the second operand is twice as large.", rule("subtract", 1, _times(2)), ("subtract",)),
    Mutant("sum of a broadcast forgotten", "The gradient of a broadcast operand is that of its first copy.",
           attribute(autograd, "_unbroadcast", _first_of_broadcast), ("add",)),
    Mutant("count forgotten", "The gradient of the mean is not divided by the count.",
           rule("mean", 0, _without_count), ("mean",)),
    Mutant("gradient to each of equals", "Each of several maxima gets all of the gradient.",
           rule("max", 0, _for_each_tie), ("max",)),
    Mutant("gradient by quotient", "The gradient of a product is nan where a factor is zero.",
           rule("prod", 0, _by_quotient), ("prod",)),
    Mutant("nan from the branch not taken", "The gradient of where is nan where the branch not taken is.",
           rule("where", 1, _spoiled_by_the_other), ("where",)),
    Mutant("no second order", "The rule uses a value that is cut off from its graph.",
           rule("exp", 0, lambda r: lambda g, y, x: g * y.detach()), ("exp",)),
    Mutant("no gradient", "A composite's kernel leaves nothing on the tape.",
           attribute(OPS["linear"], "rules", lambda _: (None, None, None)), ("linear",)),
    Mutant("term of the softmax gradient", "The gradient of softmax lacks its second term.",
           rule("softmax", 0, lambda r: lambda g, y, x, axes: g * y), ("softmax",)),
    Mutant("gradient in float16", "The rule computes in float16.",
           rule("sigmoid", 0, lambda r: lambda g, y, x: r(g.astype("float16"), y.astype("float16"), x).astype(x.dtype)),
           ("sigmoid",)),
    Mutant("nan swallowed by maximum", "The greater of a number and nan is the number.",
           kernel("maximum", _swallowing_nan), ("maximum",)),
    Mutant("nan swallowed by max", "The maximum over an axis ignores nan.", kernel("max", _skipping_nan), ("max",)),
    Mutant("-0.0 lost", "The negative of 0.0 is 0.0.", kernel("negative", _from_zero), ("negative",)),
    Mutant("sign of zero", "The sign of 0 is 1.", kernel("sign", _of_zero_too), ("sign",)),
    Mutant("integer division truncates", "-7 // 2 is -3.", kernel("floor_divide", _truncated), ("floor_divide",)),
    Mutant("remainder of the dividend's sign", "-7 % 2 is -1.", kernel("remainder", _sign_of_the_dividend), ("remainder",)),
    Mutant("half rounded up", "0.5 is rounded to 1, not to even.", kernel("round", _half_up), ("round",)),
    Mutant("integers by rounding", "1.7 becomes 2 as an integer.", kernel("astype", _to_nearest), ("astype",)),
    Mutant("argmax takes the last of equals", "Of several maxima the last is found.",
           kernel("argmax", _last_of_equals), ("argmax",)),
    Mutant("equals out of order", "Sorting turns equal elements around.", kernel("argsort", _unstable_order), ("argsort",)),
    Mutant("unstable softmax", "exp overflows for great scores.", kernel("softmax", _without_shift), ("softmax",)),
    Mutant("wrong epsilon", "layer_norm adds 1e-3 for 1e-5.", kernel("layer_norm", _epsilon_of_another), ("layer_norm",)),
    Mutant("duplicates lost", "Of several updates of one place, one counts.",
           kernel("scatter_add", _overwriting), ("scatter_add",)),
    Mutant("indexes wrapped", "An index out of bounds begins anew.", kernel("take", _wrapping), ("take",)),
    Mutant("pad off by one", "The contents lie one place too far.", kernel("pad", _one_off), ("pad",)),
    Mutant("cumsum in float32", "The running sum of int64 is computed in float32.",
           kernel("cumsum", _integers_by_way_of_float32), ("cumsum",)),
    Mutant("sum in float32", "The sum of int64 is computed in float32.", kernel("sum", _integers_by_way_of_float32), ("sum",)),
    Mutant("product of nothing", "The product of no elements is 0.", kernel("prod", _zero_of_nothing), ("prod",)),
    Mutant("keepdims ignored", "Reduced axes are dropped in any case.", kernel("sum", _never_kept), ("sum",)),
    Mutant("expm1 cancels", "exp(x) - 1 loses all digits of a small x.", kernel("expm1", _cancelling), ("expm1",)),
    Mutant("softplus overflows", "log(1 + exp(x)) is infinite for great x.", body("softplus", _overflowing), ("softplus",)),
    Mutant("logsumexp of -inf", "The logarithm of a sum of zeros is nan, not -inf.",
           body("logsumexp", _nan_of_nothing_but_inf), ("logsumexp",)),
    Mutant("maximum of nothing", "The maximum of no elements is 0.",
           together(attribute(OPS["max"], "door", _no_minimum), kernel("max", _zero_of_nothing)), ("max",)),
    Mutant("shapes not checked", "A loss broadcasts its target.",
           attribute(OPS["mse_loss"], "door", _unchecked_shapes), ("mse_loss",)),
    Mutant("attribute not checked", "An approximation that does not exist is taken for the exact form.",
           attribute(OPS["gelu"], "door", _silent), ("gelu",)),
    Mutant("negative axes off by one", "Axis -1 is the last but one.",
           attribute(doors, "normalize_axis", _one_before), ("sum",)),
    Mutant("float64 of integers", "The sum of int64 tensors is said to be float64.",
           attribute(OPS["add"], "door", _always_float64), ("add",)),
    Mutant("gradient tripled below float64", "The gradient is right in float64 only.",
           rule("tanh", 0, _tripled_below_float64), ("tanh",)),
    Mutant("second derivative times 1 + 1e-9", "The gradient of the gradient is a little too large.",
           rule("tanh", 0, _second_derivative_a_little_more), ("tanh",)),
    Mutant("cosh overflows early", "(exp(x) + exp(-x)) / 2 is infinite where cosh(x) is not.",
           kernel("cosh", _by_definition), ("cosh",)),
    Mutant("asin at the ends", "asin(1) is 42.4 in float16.", body("asin", _at_the_ends), ("asin",)),
    Mutant("acos at the ends", "acos(-1) is 84.8 in float16.", body("acos", _at_the_ends), ("acos",)),
    Mutant("powers of negative numbers", "(-2) ** 3 is -10.4 below float64.", kernel("pow", _of_negative_bases), ("pow",)),
    Mutant("overflow to 5", "A product of float32 that overflows is 5.", kernel("multiply", _five_for_infinity), ("multiply",)),
    Mutant("saturating product", "A product of float32 that overflows is the greatest number.",
           kernel("multiply", _saturating), ("multiply",)),
    Mutant("saturating sum", "A sum of float32 that overflows is the greatest number.", kernel("add", _saturating), ("add",)),
    Mutant("gradient of erf times 1 + 5e-8", "The gradient is as good as float32 in float64.",
           rule("erf", 0, _times(1 + 5e-8)), ("erf",)),
    Mutant("gradient of softplus times 1 + 1e-9", "The gradient is a little too large in float64.",
           rule("softplus", 0, _times(1 + 1e-9)), ("softplus",)),
    *(Mutant(f"{name} by way of float64", "Integers of more than 53 bits lose their last digits.",
             kernel(name, _integers_by_way_of_float64), (name,))
      for name in ("add", "subtract", "multiply", "negative", "maximum", "minimum", "equal", "less", "where")),
    *(Mutant(f"{name} of middle numbers", "Numbers between 40 and a million give another result.",
             kernel(name, _wrong_from_40_on), (name,))
      for name in ("multiply", "divide", "erf")),
    Mutant("log of zero", "The logarithm of 0 is that of the least number.", kernel("log", _of_the_least), ("log",)),
]  # fmt: skip
