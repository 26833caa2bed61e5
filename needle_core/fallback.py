"""What happens where a backend has no kernel for a primitive: an error, unless NEEDLE_FALLBACK lets the host compute.

    NEEDLE_FALLBACK=error     MissingKernelError, which names who has the kernel (the default)
    NEEDLE_FALLBACK=warn      the host computes, and a warning tells of each op once
    NEEDLE_FALLBACK=allow     the host computes

The operands go to the best host backend that has the kernel, the result comes back. Each such round trip is counted:
`fallbacks()` gives the counts, and when the process ends a summary goes to standard error.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

import numpy as np

from needle_core import op as _op
from needle_core.errors import DeviceUnavailableError, MissingKernelError, warn
from needle_core.plugins.environment import choice
from needle_core.spec import Device, Spec

if TYPE_CHECKING:
    from needle_core.backend import Backend

POLICIES: Final = ("error", "warn", "allow")


class RoundTrips(NamedTuple):
    """How often an op of a device ran on the host, and how many bytes went there and back."""

    calls: int
    bytes: int


_counts: dict[tuple[str, str], RoundTrips] = {}
_warned: set[tuple[str, str]] = set()
_counting = threading.Lock()


def fallbacks() -> dict[tuple[str, str], RoundTrips]:
    """What the host has computed for other devices in this process, by op and backend."""
    with _counting:
        return dict(_counts)


def host_kernel(
    op: str, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
) -> Callable[..., Any]:
    """A kernel for `op` on the device of `output`, which computes on the host.

    Raises MissingKernelError if no host backend has one, or NEEDLE_FALLBACK does not allow it.
    """
    device = output[0].device if isinstance(output, tuple) else output.device
    backend = device.backend
    host = next((host for host in _hosts() if (op, host.name) in _op.KERNELS), None)
    if host is None or not is_allowed(op, backend):
        raise _missing(op, backend, host)
    there = _first_device(host)
    on_host = {name: there if value is device else value for name, value in attrs.items()}
    bound = host.bind(_op.KERNELS[op, host.name], on_host, _moved(inputs, there), _moved(output, there))

    def call(*buffers: Any) -> Any:
        if not is_allowed(op, backend):  # NEEDLE_FALLBACK may have changed
            raise _missing(op, backend, host)
        arrays = [backend.to_numpy(buffer) for buffer in buffers]
        result = bound(*(host.from_numpy(array, there) for array in arrays))
        several = isinstance(output, tuple)
        back = [np.asarray(host.to_numpy(y), order="C") for y in (result if several else (result,))]
        count(op, backend, sum(array.nbytes for array in (*arrays, *back)))
        made = tuple(backend.from_numpy(array, device) for array in back)
        return made if several else made[0]

    return call


def is_allowed(op: str, backend: Backend) -> bool:
    """Whether NEEDLE_FALLBACK lets the host compute `op` for `backend`; tells the user, once, if it says so."""
    policy = choice("NEEDLE_FALLBACK", POLICIES)
    if policy == "warn" and (op, backend.name) not in _warned:
        _warned.add((op, backend.name))
        warn(f"{op}: backend {backend.name!r} has no kernel for it, so the operands go to the host and the result comes back")
    return policy != "error"


def count(op: str, backend: Backend, nbytes: int) -> None:
    """Count one round trip of `op`."""
    with _counting:
        calls, before = _counts.get((op, backend.name), (0, 0))
        _counts[op, backend.name] = RoundTrips(calls + 1, before + nbytes)


@atexit.register
def _summarize() -> None:
    """Tell on standard error what ran on the host."""
    if not _counts:
        return
    print(f"needle: {len(_counts)} {'op' if len(_counts) == 1 else 'ops'} ran on the host:", file=sys.stderr)
    for (op, backend), trips in sorted(_counts.items(), key=lambda item: -item[1].bytes):
        times = "once" if trips.calls == 1 else f"{trips.calls} times"
        print(f"  {op} of {backend}, {times}, {trips.bytes:,} bytes there and back", file=sys.stderr)


def _hosts() -> Iterator[Backend]:
    """The host backends that can be opened, the best first."""
    from needle_core.backend import host_backends, open_backend

    for cls in host_backends():
        try:
            yield open_backend(cls.name)
        except DeviceUnavailableError:  # the next best will do; `needle plugins why` tells
            continue


def _first_device(backend: Backend) -> Device:
    from needle_core.backend import device

    return device(backend.name)


@overload
def _moved(specs: Spec, device: Device) -> Spec: ...
@overload
def _moved(specs: tuple[Spec, ...], device: Device) -> tuple[Spec, ...]: ...
def _moved(specs: Spec | tuple[Spec, ...], device: Device) -> Spec | tuple[Spec, ...]:
    """The same shapes and dtypes on `device`."""
    if isinstance(specs, tuple):
        return tuple(_moved(s, device) for s in specs)
    return Spec.of(specs.shape, specs.dtype, device)


def _missing(op: str, backend: Backend, host: Backend | None) -> MissingKernelError:
    having = ", ".join(sorted(b for name, b in _op.KERNELS if name == op)) or "none"
    return MissingKernelError(
        f"backend {backend.name!r} has no kernel for this primitive",
        details={"kernels": having},
        hint=f"NEEDLE_FALLBACK=warn lets {host.name} compute it" if host is not None else None,
    )
