"""Convolution, its transpose, and the windows that both look through.

Images have channels last: (n, *s, c), with one, two or more spatial axes s. Canonical attributes have one entry for each of
them: `stride` and `dilation` a number, `padding` a pair (before, after).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from needle_core.doors import normalize_integer, normalize_integers, normalize_shape, promoting, to_floating, to_number
from needle_core.errors import ArgumentError, ShapeError, brief
from needle_core.op import composite
from needle_core.ops.create import iota
from needle_core.ops.index import take
from needle_core.ops.shape import pad, permute_dims, reshape, strided_slice
from needle_core.spec import Spec, float32
from needle_core.tensor import Tensor

__all__ = [
    "conv", "conv_transpose", "conv_weight_grad", "fold", "unfold",
]  # fmt: skip

Attrs: TypeAlias = dict[str, Any]
Sizes: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]

# -- the geometry of windows ------------------------------------------------------------------------------------------------


def image(x: Spec) -> Sizes:
    """The shape of x, which must be that of images."""
    if x.ndim < 3:
        raise ShapeError(f"an image has at least the axes (n, s, c), and not {x.ndim}")
    return x.shape


def per_axis(what: str, value: Any, axes: int, least: int = 1) -> Sizes:
    """A number of at least `least` for each of so many axes; one number stands for all of them."""
    numbers = normalize_integers(what, value)
    numbers = numbers * axes if len(numbers) == 1 else numbers
    if len(numbers) != axes or min(numbers) < least:
        raise ShapeError(f"{what} is one number for all {axes} spatial axes or one for each, at least {least}, not {value}")
    return numbers


def slide(size: Sizes, window: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> tuple[Sizes, Attrs]:
    """How many places a window has along axes of these sizes; and stride, padding and dilation in their canonical form.

    Raises: ShapeError if the window does not fit, or an axis is empty.
    """
    if not all(size):
        raise ShapeError(f"an image of {' x '.join(map(str, size))} elements has none to look at")
    axes = len(size)
    steps, apart = per_axis("stride", stride, axes), per_axis("dilation", dilation, axes)
    spans = [(k - 1) * d + 1 for k, d in zip(per_axis("a window", window, axes), apart, strict=True)]
    widths = _widths(padding, size, spans, steps)
    wide = [n + sum(p) for n, p in zip(size, widths, strict=True)]
    if any(span > n for span, n in zip(spans, wide, strict=True)):
        raise ShapeError(f"a window that spans {spans} does not fit into {wide}, the padded image")
    places = tuple((n - span) // step + 1 for n, span, step in zip(wide, spans, steps, strict=True))
    return places, {"stride": steps, "padding": widths, "dilation": apart}


def _widths(padding: Any, size: Sizes, spans: Sequence[int], steps: Sizes) -> Pairs:
    """The padding before and after each axis; "same" is what a window needs for ceil(size / stride) places."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ArgumentError(f"padding is 'same', 'valid', or numbers, not {padding!r}")
        if padding == "valid":
            return ((0, 0),) * len(size)
        lacking = [max((-(-n // s) - 1) * s + span - n, 0) for n, span, s in zip(size, spans, steps, strict=True)]
        return tuple((n // 2, n - n // 2) for n in lacking)
    sides = [padding] * len(size) if isinstance(padding, int) or not hasattr(padding, "__iter__") else list(padding)
    pairs = [normalize_integers("padding", p) for p in sides]
    if len(pairs) != len(size) or any(len(p) not in (1, 2) or min(p) < 0 for p in pairs):
        raise ShapeError(
            f"padding is one number for all {len(size)} spatial axes, or for each a number or a pair (before, after), "
            f"not negative, not {brief(padding)}"
        )
    return tuple((p[0], p[-1]) for p in pairs)


def widened(x: Tensor) -> Tensor:
    """x in the dtype to accumulate in: float32 for half precision."""
    return x.astype(float32) if x.dtype.itemsize == 2 else x


def surround(x: Tensor, padding: Pairs, value: float = 0.0) -> Tensor:
    """x with `value` around its spatial axes."""
    return pad(x, width=((0, 0), *padding, (0, 0)), value=value) if any(map(any, padding)) else x


def trim(x: Tensor, padding: Pairs) -> Tensor:
    """x without this much of each side of its spatial axes: what `surround` adds."""
    stop = tuple(n - after for n, (_, after) in zip(x.shape[1:-1], padding, strict=True))
    start = tuple(before for before, _ in padding)
    return strided_slice(x, start=(0, *start, 0), stop=(x.shape[0], *stop, x.shape[-1]))


# -- windows ----------------------------------------------------------------------------------------------------------------


def _unfolded(x: Spec, *, size: Any, stride: Any = 1, dilation: Any = 1) -> tuple[Spec, Attrs]:
    n, *s, c = image(x)
    window = per_axis("size", size, len(s))
    t, attrs = slide(tuple(s), window, stride=stride, dilation=dilation)
    return x.like(shape=(n, *t, *window, c)), {"size": window, "stride": attrs["stride"], "dilation": attrs["dilation"]}


@composite(_unfolded)
def unfold(x: Tensor, *, size: Any, stride: Any = 1, dilation: Any = 1) -> Tensor:
    """The windows of an image: each place of a window of this size, element by element.

        y[n, t, k, c] = x[n, t stride + k dilation, c]

    Shapes:   x (n, *s, c) -> (n, *t, *size, c)
    Gradient: fold
    Raises:   ShapeError if the window does not fit
    """
    axes = len(size)
    t, _ = slide(x.shape[1:-1], size, stride=stride, dilation=dilation)
    for i in reversed(range(axes)):  # from the last, so that the axes before stay where they are
        places = (
            reshape(iota(n=t[i], device=x.device) * stride[i], shape=(t[i], 1)) + iota(n=size[i], device=x.device) * dilation[i]
        )
        x = take(x, places, axis=i + 1)
    return permute_dims(x, axes=(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1))


@promoting(to_number)
def _folded(x: Spec, *, shape: Any, stride: Any = 1, dilation: Any = 1) -> tuple[Spec, Attrs]:
    axes = x.ndim // 2 - 1
    if x.ndim % 2 or axes < 1:
        raise ShapeError(f"x has the axes (n, *t, *k, c), an even number of them from 4 on, not {x.ndim}")
    size = per_axis("shape", shape, axes, least=0)
    t, attrs = slide(size, x.shape[axes + 1 : -1], stride=stride, dilation=dilation)
    if t != x.shape[1 : axes + 1]:
        raise ShapeError(f"an image of shape {list(size)} has {list(t)} windows, not {list(x.shape[1 : axes + 1])}")
    out = x.like(shape=(x.shape[0], *size, x.shape[-1]))
    return out, {"shape": size, "stride": attrs["stride"], "dilation": attrs["dilation"]}


@composite(_folded)
def fold(x: Tensor, *, shape: Any, stride: Any = 1, dilation: Any = 1) -> Tensor:
    """The image whose windows are given; what they hold of one place is summed. The adjoint of `unfold`.

    Shapes:   x (n, *t, *k, c) -> (n, *shape, c)
    Dtypes:   numbers; float16 and bfloat16 are summed in float32
    Gradient: unfold
    Raises:   ShapeError if an image of this shape has another number of windows
    """
    y = widened(x)
    for i in range(1, len(shape) + 1):  # axis by axis: (n, *s, t, ..., k, ..., c), where k stays behind all t
        y = _lay(y, i, len(shape) + 1, shape[i - 1], stride[i - 1], dilation[i - 1])
    return y.astype(x.dtype)


def _lay(x: Tensor, places: int, offsets: int, size: int, stride: int, dilation: int) -> Tensor:
    """x with its axes `places` and `offsets` summed into one of this size, which stands where `places` did."""
    k, reach = x.shape[offsets], (x.shape[places] - 1) * stride + 1
    total: Tensor | None = None
    for j in range(k):
        start = tuple(j if i == offsets else 0 for i in range(x.ndim))
        stop = tuple(j + 1 if i == offsets else n for i, n in enumerate(x.shape))
        part = reshape(strided_slice(x, start=start, stop=stop), shape=x.shape[:offsets] + x.shape[offsets + 1 :])
        width = tuple((j * dilation, size - reach - j * dilation) if i == places else (0, 0) for i in range(part.ndim))
        part = pad(part, width=width, dilation=tuple(stride if i == places else 1 for i in range(part.ndim)))
        total = part if total is None else total + part
    assert total is not None
    return total


unfold.vjp(lambda g, y, x, size, stride, dilation: fold(g, shape=x.shape[1:-1], stride=stride, dilation=dilation))
fold.vjp(
    lambda g, y, x, shape, stride, dilation: unfold(g, size=x.shape[len(shape) + 1 : -1], stride=stride, dilation=dilation)
)


# -- convolution: the three derivatives of one trilinear form -----------------------------------------------------------------
#
#     sum of g[n, t, o] x[n, t stride + k dilation - before, c] weight[o, k, c]   over all indices
#
# by g is conv, by x is conv_transpose, by weight is conv_weight_grad. So each one's gradients are the other two.


@promoting(to_floating)
def _convolved(
    x: Spec, weight: Spec, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Spec, Attrs]:
    n, *s, c = image(x)
    if weight.ndim != x.ndim:
        raise ShapeError(f"x and weight need the same number of axes, {x.ndim} != {weight.ndim}")
    o, *k, each = weight.shape
    parts = _groups(groups, c, o)
    if each * parts != c:
        raise ShapeError(f"x has {c} channels, weight is for {each * parts}")
    t, attrs = slide(tuple(s), k, stride=stride, padding=padding, dilation=dilation)
    return x.like(shape=(n, *t, o)), {**attrs, "groups": parts}


@composite(_convolved, product=True)
def conv(x: Tensor, weight: Tensor, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """Convolution (as it is called: the correlation) of images with a kernel, over as many spatial axes as they have.

        y[n, t, o] = sum_k,c x[n, t stride + k dilation - before, c] weight[o, k, c]

    `padding` counts the zeros around the image: a number, one for each axis, or pairs (before, after); "valid" is none and
    "same" gives t = ceil(s / stride), with the odd one after. With `groups`, channels and kernels are cut into so many equal
    parts, and each part sees its own.

    Shapes:   x (n, *s, c), weight (o, *k, c / groups) -> (n, *t, o)
    Dtypes:   floating; float16 and bfloat16 accumulate in float32
    Raises:   ShapeError if channels, groups or window do not fit
    """
    t, _ = slide(x.shape[1:-1], weight.shape[1:-1], stride=stride, padding=padding, dilation=dilation)
    columns = _columns(widened(x), weight.shape[1:-1], stride, padding, dilation, groups)
    kernels = reshape(widened(weight), shape=(groups, weight.shape[0] // groups, columns.shape[-1]))
    y = permute_dims(columns @ kernels.mT, axes=(1, 0, 2))
    return reshape(y, shape=(x.shape[0], *t, weight.shape[0])).astype(x.dtype)


@promoting(to_floating)
def _convolved_weight(
    g: Spec, x: Spec, *, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Spec, Attrs]:
    n, *s, c = image(x)
    k = per_axis("size", size, len(s))
    t, attrs = slide(tuple(s), k, stride=stride, padding=padding, dilation=dilation)
    if g.shape[:-1] != (n, *t):
        raise ShapeError(f"g needs the axes {[n, *t]} of what conv returns before its channels, not {list(g.shape[:-1])}")
    parts = _groups(groups, c, g.shape[-1])
    return x.like(shape=(g.shape[-1], *k, c // parts)), {"size": k, **attrs, "groups": parts}


@composite(_convolved_weight, product=True)
def conv_weight_grad(
    g: Tensor, x: Tensor, *, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """The gradient of conv for a weight whose kernels have this size.

    Shapes:   g (n, *t, o), x (n, *s, c) -> (o, *size, c / groups)
    """
    columns = _columns(widened(x), size, stride, padding, dilation, groups)
    y = _by_group(widened(g), 1, groups).mT @ columns
    return reshape(y, shape=(g.shape[-1], *size, x.shape[-1] // groups)).astype(x.dtype)


@promoting(to_floating)
def _convolved_back(
    x: Spec,
    weight: Spec,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
    size: Any = None,
) -> tuple[Spec, Attrs]:
    n, t, c = x.shape[0], image(x)[1:-1], x.shape[-1]
    if weight.ndim != x.ndim:
        raise ShapeError(f"x and weight need the same number of axes, {x.ndim} != {weight.ndim}")
    o, k, each = weight.shape[0], weight.shape[1:-1], weight.shape[-1]
    if o != c:
        raise ShapeError(f"x has {c} channels, weight is for {o}")
    parts = _groups(groups, c)
    if size is not None and output_padding != 0:
        raise ArgumentError("size and output_padding say the same thing in two ways", details={"size": size})
    s = _enlarged(t, k, stride, padding, dilation, output_padding) if size is None else per_axis("size", size, len(t), 0)
    places, attrs = slide(s, k, stride=stride, padding=padding, dilation=dilation)
    if places != t:
        raise ShapeError(f"conv makes {list(places)} of the size {list(s)}, not {list(t)}")
    return x.like(shape=(n, *s, each * parts)), {**attrs, "groups": parts, "size": s}


def _enlarged(t: Sizes, window: Sizes, stride: Any, padding: Any, dilation: Any, extra: Any) -> Sizes:
    """The least size in which a window has the places t, and `extra` more; for "same", t stride."""
    axes = len(t)
    steps, apart = per_axis("stride", stride, axes), per_axis("dilation", dilation, axes)
    more = per_axis("output_padding", extra, axes, least=0)
    if any(e >= s for e, s in zip(more, steps, strict=True)):
        raise ShapeError(f"output_padding {list(more)} must be less than the stride {list(steps)}")
    if padding == "same":
        return tuple(n * s + e for n, s, e in zip(t, steps, more, strict=True))
    sides = map(sum, _widths(padding, t, t, steps))
    least = ((n - 1) * s + (k - 1) * d + 1 - p for n, k, s, d, p in zip(t, window, steps, apart, sides, strict=True))
    return normalize_shape([n + e for n, e in zip(least, more, strict=True)])


@composite(_convolved_back, product=True)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
    size: Any = None,
) -> Tensor:
    """The transpose of conv, its gradient for the image: each element of x is spread over a window.

        y[n, t stride + k dilation - before, o] += x[n, t, c] weight[c, k, o]   for all t, k, c

    Stride, padding, dilation and groups are those of the convolution. With a stride, it makes t places of images of several
    sizes: s is the least of them plus `output_padding`, or `size`.

    Shapes:   x (n, *t, c), weight (c, *k, o / groups) -> (n, *s, o), s = (t - 1) stride + (k - 1) dilation + 1 - padding
    Dtypes:   floating; float16 and bfloat16 accumulate in float32
    Raises:   ShapeError if channels, groups or sizes do not fit
    """
    n, *t, c = x.shape
    k, each = weight.shape[1:-1], weight.shape[-1]
    spread = _by_group(widened(x), 1, groups) @ reshape(widened(weight), shape=(groups, c // groups, math.prod(k) * each))
    spread = permute_dims(reshape(spread, shape=(groups, n * math.prod(t), math.prod(k), each)), axes=(1, 2, 0, 3))
    windows = reshape(spread, shape=(n, *t, *k, groups * each))
    wide = tuple(m + sum(p) for m, p in zip(size, padding, strict=True))
    return trim(fold(windows, shape=wide, stride=stride, dilation=dilation), padding).astype(x.dtype)


conv.vjp(
    lambda g, y, x, weight, **attrs: conv_transpose(g, weight, size=x.shape[1:-1], **attrs),
    lambda g, y, x, weight, **attrs: conv_weight_grad(g, x, size=weight.shape[1:-1], **attrs),
)
conv_transpose.vjp(
    lambda g, y, x, weight, size, **attrs: conv(g, weight, **attrs),
    lambda g, y, x, weight, size, **attrs: conv_weight_grad(x, g, size=weight.shape[1:-1], **attrs),
)
conv_weight_grad.vjp(
    lambda h, y, g, x, size, **attrs: conv(x, h, **attrs),
    lambda h, y, g, x, size, **attrs: conv_transpose(g, h, size=x.shape[1:-1], **attrs),
)


def _groups(groups: Any, *channels: int) -> int:
    parts = normalize_integer("groups", groups)
    if parts < 1 or any(c % parts for c in channels):
        raise ShapeError(f"{' and '.join(map(str, channels))} channels do not make {parts} equal groups")
    return parts


def _columns(x: Tensor, window: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, groups: int) -> Tensor:
    """What each window holds, as a row: (groups, n prod(t), prod(window) c / groups)."""
    windows = unfold(surround(x, padding), size=window, stride=stride, dilation=dilation)
    return _by_group(windows, math.prod(window), groups)


def _by_group(x: Tensor, inner: int, groups: int) -> Tensor:
    """x (*rows, *inner, c) as (groups, rows, inner c / groups), where `inner` is the number of elements of these axes."""
    each = x.shape[-1] // groups
    rows = math.prod(x.shape[:-1]) // inner
    apart = permute_dims(reshape(x, shape=(rows, inner, groups, each)), axes=(2, 0, 1, 3))
    return reshape(apart, shape=(groups, rows, inner * each))
