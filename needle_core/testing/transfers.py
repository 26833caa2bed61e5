"""Checks of a backend apart from its ops: values in and out, random bits, memory, threads."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

import numpy as np

import needle_core as ndl
from needle_core.errors import DeviceUnavailableError, PluginError
from needle_core.plugins import registry
from needle_core.spec import DTYPES, Device
from needle_core.testing.create import words
from needle_core.testing.layouts import LAYOUTS
from needle_core.testing.memory import at_once
from needle_core.testing.samples import Array, Check, MismatchError, Shape

SHAPES: Final[tuple[Shape, ...]] = ((), (1,), (0,), (7,), (3, 5), (2, 0, 3), (2, 3, 4))
LENT: Final = tuple(name for name in DTYPES if name != "bfloat16")  # which DLPack in NumPy does not know
STATES: Final = ((0, 0), (1, 2), (2**40 + 3, 2**33), (-1, 0), (-(2**62), 2**62))  # keys and positions
RANDOM: Final[tuple[Shape, ...]] = ((), (1,), (7,), (4, 5), (0, 3), (1025,))
VIEWS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T,
    "stepped": lambda x: x[(slice(None, None, 2),) * x.ndim],
    "flipped": lambda x: np.flip(x),
    "repeated": lambda x: np.broadcast_to(x, (2, *x.shape)),
    "unaligned": lambda x: _unaligned(x),
    "read-only": lambda x: _read_only(x),
}
"""What a NumPy array that comes in may look like."""


def _unaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    y = np.ndarray(x.shape, x.dtype, raw, 1)
    y[...] = x
    return y


def _read_only(x: Array) -> Array:
    x.flags.writeable = False
    return x


def checks_of_backend(seed: int = 0, *, quick: bool = False) -> Iterator[Check]:
    """All checks of the default device's backend that are not about one op."""
    for dtype in DTYPES:
        for shape in _shapes(quick):
            for view in VIEWS:
                yield _check("transfer", shape, dtype, view, run=partial(check_transfer, shape, dtype, view, seed))
        for layout in LAYOUTS:
            yield _check("view", dtype, layout, run=partial(check_way_out, layout, dtype, seed))
        if other_device() is not None:
            yield _check("devices", dtype, run=partial(check_device_copy, dtype, seed))
        yield _check("empty", dtype, run=partial(check_empty_buffer, dtype))
    for dtype in LENT:
        for shape in _shapes(quick):
            yield _check("dlpack", shape, dtype, "in", run=partial(check_from_dlpack, shape, dtype, seed))
            yield _check("dlpack", shape, dtype, "out", run=partial(check_to_dlpack, shape, dtype, seed))
    for shape in RANDOM:
        for key, position in STATES:
            yield _check("random", shape, f"{key} {position}", run=partial(check_random, shape, key + seed, position))
    if counts_memory():
        yield _check("leaks", "training", run=check_leaks)
    yield _check("threads", "training", run=check_threads)
    yield _check("synchronize", "a chain", run=partial(check_synchronize, seed))


def _shapes(quick: bool) -> tuple[Shape, ...]:
    return SHAPES[-2:] if quick else SHAPES


def _check(kind: str, *parts: object, run: Callable[[], None]) -> Check:
    return Check("/".join(["backend", kind, *map(str, parts)]), run)


def other_device() -> Device | None:
    """Another device than the default one, where there is one: loopback's, else the next of any backend that opens."""
    here = ndl.default_device()
    names = ["loopback:0", "loopback:1", *here.backend.devices(), *registry.names("backends")]
    return next((d for d in opened(names) if d is not here), None)


def opened(names: Iterable[str]) -> Iterator[Device]:
    """The devices of these names, but for those that cannot be opened here: `needle doctor` says why."""
    for name in names:
        try:
            yield ndl.device(name)
        except (DeviceUnavailableError, PluginError):
            continue


def counts_memory() -> bool:
    """Whether the default device tells how many bytes are in use."""
    here = ndl.default_device()
    return "in_use" in here.backend.memory_stats(here)


# -- in and out -------------------------------------------------------------------------------------------------------------


def drawn(shape: Shape, dtype: str, seed: int) -> Array:
    """Any bits at all, so that every nan and every denormal number is among them; bools are 0 or 1."""
    rng, d = np.random.default_rng([seed, len(dtype), *shape]), DTYPES[dtype]
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    raw = rng.integers(0, 256, int(np.prod(shape)) * d.itemsize, np.uint8)
    return raw.view(d.numpy).reshape(shape)


def check_transfer(shape: Shape, dtype: str, view: str, seed: int = 0) -> None:
    """A view of an array goes in and comes out bit for bit, and does not follow what happens to the array afterwards."""
    place = f"backend/transfer/{shape}/{dtype}/{view}"
    array = VIEWS[view](drawn(shape, dtype, seed))
    expected = array.copy()
    t = ndl.Tensor(array)
    if array.flags.writeable:
        array[...] = 0
    _compare_bits(place, t, expected)


def check_from_dlpack(shape: Shape, dtype: str, seed: int = 0) -> None:
    """An array lent by DLPack, with strides, is taken as it lies in memory, bit for bit."""
    array = np.asarray(drawn(tuple(2 * n for n in shape), dtype, seed)[(slice(None, None, 2),) * len(shape)]).T
    _compare_bits(f"backend/dlpack/{shape}/{dtype}/in", ndl.from_dlpack(array), array.copy())


def check_to_dlpack(shape: Shape, dtype: str, seed: int = 0) -> None:
    """A tensor on the host is lent bit for bit, and not to be written; one elsewhere refuses."""
    place = f"backend/dlpack/{shape}/{dtype}/out"
    array = drawn(shape, dtype, seed)
    t = ndl.Tensor(array)
    try:
        lent = np.from_dlpack(t)
    except ndl.errors.DeviceError:
        if t.device.backend.host:
            raise
        return
    if lent.flags.writeable or lent.tobytes() != array.tobytes():
        raise MismatchError(f"{place}: {lent!r} for {array!r}, writeable: {lent.flags.writeable}")


def check_way_out(layout: str, dtype: str, seed: int = 0) -> None:
    """A view of a tensor comes out as it should, and cannot be written, or is a copy."""
    place = f"backend/view/(3,4)/{dtype}/{layout}"
    values = drawn((3, 4), dtype, seed)
    t = LAYOUTS[layout](values)
    expected = np.broadcast_to(values[:1], (3, 4)) if layout == "repeated" else values
    _compare_bits(place, t, expected)
    out = t.numpy()
    if out.flags.writeable:
        out[...] = 0
        _compare_bits(place + ", after writing into what came out", t, expected)


def _compare_bits(place: str, t: ndl.Tensor, expected: Array) -> None:
    values = t.numpy()
    if values.dtype != expected.dtype or values.shape != expected.shape or values.tobytes() != expected.tobytes():
        raise MismatchError(f"{place}: {values!r} for {expected!r}")


def check_device_copy(dtype: str, seed: int = 0) -> None:
    """A tensor goes to another device and back, bit for bit."""
    here, other = ndl.default_device(), other_device()
    assert other is not None, "where there is one device, this is not checked"
    values = drawn((3, 4), dtype, seed)
    t = ndl.Tensor(values)
    moved = t.to(other)
    if moved.device is not other or moved.to(here).device is not here:
        raise MismatchError(f"backend/devices/{dtype}: it is on {moved.device}, and then on {moved.to(here).device}")
    _compare_bits(f"backend/devices/{dtype}/there", moved, values)
    _compare_bits(f"backend/devices/{dtype}/and back", moved.to(here).T.T, values)


# -- the rest ---------------------------------------------------------------------------------------------------------------


def check_empty_buffer(dtype: str) -> None:
    """`empty` makes a buffer of the shape and dtype asked for, by the words of `describe` too."""
    here = ndl.default_device()
    for shape in SHAPES:
        buffer = here.backend.empty(shape, DTYPES[dtype], here)
        array = here.backend.to_numpy(buffer)
        told = here.backend.describe(buffer)
        if (array.shape, array.dtype.name) != (shape, dtype) or told != (shape, dtype):
            raise MismatchError(f"backend/empty/{shape}/{dtype}: {array.dtype}{list(array.shape)}, described as {told}")


def check_random(shape: Shape, key: int, position: int) -> None:
    """Random bits are those of the reference in Python's integers."""
    state = np.array([key, position], np.int64)
    found = ndl.random_bits(ndl.Tensor(state), shape=shape).numpy()
    expected = np.array(words(state, int(np.prod(shape))), np.int64).reshape(shape)
    if found.dtype != np.int64 or not np.array_equal(found, expected):
        raise MismatchError(f"backend/random/{shape} key={key} position={position}: {found!r} for {expected!r}")


def check_leaks() -> None:
    """After a step of training has run many times, as much memory is in use as after the first times."""
    here = ndl.default_device()

    def in_use() -> dict[str, int]:
        gc.collect()
        here.backend.synchronize(here)
        return {k: n for k, n in here.backend.memory_stats(here).items() if k == "in_use"}

    for _ in range(3):
        _step()
    before = in_use()
    for _ in range(20):
        _step()
    if in_use() != before:
        raise MismatchError(f"backend/leaks: {before} after 3 steps, {in_use()} after 23")


def _step() -> list[bytes]:
    """Forward and backward of a little of everything."""
    x = ndl.Tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    w = ndl.Tensor(np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2), requires_grad=True)
    loss = (ndl.softmax(ndl.relu(x @ w) - w.sum(0), axis=-1)[1:] ** 2).mean()
    loss.backward()
    assert w.grad is not None
    return [loss.numpy().tobytes(), w.grad.numpy().tobytes()]


def check_threads() -> None:
    """Several threads at once compute what one computes."""
    alone = _step()
    for found in at_once(lambda _: [_step() for _ in range(10)], threads=4):
        if any(run != alone for run in found):
            raise MismatchError("backend/threads: in several threads the result is another")


def check_synchronize(seed: int = 0) -> None:
    """When `synchronize` has returned, what comes out is the result of all that was queued before, to the last op.

    Each of 300 products turns the rows of a matrix by one and adds 1: whole numbers, so that there is no rounding. That
    `synchronize` itself returns too early shows only where `to_numpy` does not wait either.
    """
    here = ndl.default_device()
    x = np.random.default_rng(seed).integers(0, 100, (64, 64)).astype(np.float64)
    turn = ndl.Tensor(np.roll(np.eye(64), 1, axis=0))
    y = ndl.Tensor(x)
    for _ in range(300):
        y = turn @ y + 1
    here.backend.synchronize(here)
    found = y.numpy()
    if not np.array_equal(found, np.roll(x, 300, axis=0) + 300):
        raise MismatchError("backend/synchronize/a chain: what came out after it is not the result")
