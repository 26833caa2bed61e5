"""What a backend is, and how a device is found, opened and chosen as the default.

A backend is a class with the few methods below and modules of kernels; the class may be looked at freely (name, priority),
making an instance opens it. Buffers are the backend's own: the core only passes them from one kernel to the next.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, get_origin

import numpy as np
import numpy.typing as npt

from needle_core.errors import ArgumentError, DeviceError, DeviceUnavailableError, NeedleError, brief, warn
from needle_core.op import OPS, Kernel, lock, register_kernels
from needle_core.spec import Device, DType, Spec

if TYPE_CHECKING:
    from needle_core.graph.graph import Node
    from needle_core.graph.plan import Plan
    from needle_core.plugins.manifest import Plugin

Buffer: TypeAlias = Any
DeviceLike: TypeAlias = Device | str


class Executable(NamedTuple):
    """A compiled plan. `run` takes the buffers of the plan's inputs and gives those of its outputs, in order.

    It writes those inputs whose numbers are in `overwrites`, some of the donated ones. It may be called by several threads.
    `profile` does what `run` does once, and gives the seconds that each node of the plan took.
    """

    run: Callable[..., Sequence[Buffer]]
    overwrites: Collection[int] = ()
    profile: Callable[..., Mapping[Node, float]] | None = None


class Backend(ABC):
    """The maker of devices of one kind. `Backend()` opens it: an exception there means that the device is unavailable."""

    name: ClassVar[str]
    host: ClassVar[bool] = False
    """Buffers are NumPy arrays, so that host code may compute on them in place. Only such a backend becomes the default."""
    priority: ClassVar[int] = 0
    """The host backend with the highest priority is the default device."""
    can_be_simulated: ClassVar[bool] = False
    """Where the environment has NEEDLE_<NAME>_SIMULATED=1 when it is opened, its device is one that the host simulates."""
    plans_eagerly: ClassVar[bool] = False
    """Eager calls of many kernels, bodies of composites and steps of optimizers, are run as plans when they come again."""
    writes_over: ClassVar[Mapping[str, int]] = MappingProxyType({})
    """Ops beyond the elementwise, and by its number the operand over which their kernel may write its only or first result.

    Plans make use of it where both have the same spec and nothing reads that operand later.
    """
    alignment: ClassVar[int] = 64
    """Bytes, a multiple of 64: plans put values at multiples of it. 64 are a cache line, and the widest vector register."""
    identical: Callable[..., bool] | None = None
    """A native function that compares at each call what a compiled function depends on, if the backend has one.

    `identical(containers, contents, items, absent, attributes, values)`, all but `absent` lists, tells whether each list, dict,
    set or deque holds the very objects of its list in `contents`, in order, the values of a dict before its keys, with
    ValueError where there are more or fewer; and whether mapping.get(name, absent) for each pair of `items`, and then
    owner.name for each of `attributes`, are the very objects of `values`. What an attribute raises passes through.
    """
    alone: Callable[..., bool] | None = None
    """A native function that asks what `owns` does for many buffers at once, if the backend has one.

    `alone(references, *buffers)` tells whether it owns each of them, and Python counts no more `references` to any.
    """
    kernels: ClassVar[Sequence[ModuleType]] = ()
    """Modules, one for each family of ops, whose public functions are kernels and bear the names of their ops."""

    @abstractmethod
    def devices(self) -> Sequence[str]:
        """The names of the devices at hand, the default first: ["numpy"], or ["cuda:0", "cuda:1"]."""

    @abstractmethod
    def from_numpy(self, array: npt.NDArray[Any], device: Device) -> Buffer:
        """A buffer with the values of `array`, which it may share if this is a host backend."""

    @abstractmethod
    def to_numpy(self, buffer: Buffer) -> npt.NDArray[Any]:
        """The values of `buffer` on the host, without a copy where the memory is the host's."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DType, device: Device) -> Buffer:
        """A buffer whose values are not yet set."""

    def copy(self, buffer: Buffer, device: Device) -> Buffer:
        """A new buffer on its device with the same values. A backend that need not go by way of the host should not."""
        return self.from_numpy(np.array(self.to_numpy(buffer)), device)

    def kernel_table(self) -> Mapping[str, Kernel]:
        """The kernels by name of op: the public functions of the modules in `kernels`, unless the backend has others."""
        return {op: kernel for module in self.kernels for op, kernel in public_functions(module).items()}

    def describe(self, buffer: Buffer) -> tuple[tuple[int, ...], str]:
        """The shape of `buffer` and the name of its dtype, by which the first result of a kernel is checked.

        A backend whose buffers can tell without a copy to the host should say so here.
        """
        array = self.to_numpy(buffer)
        if not isinstance(array, np.ndarray):  # one of NumPy's numbers has a shape too
            raise TypeError(f"{type(array).__name__} is no array")
        return array.shape, array.dtype.name

    def bind(
        self, kernel: Kernel, attrs: Mapping[str, Any], inputs: tuple[Spec, ...], output: Spec | tuple[Spec, ...]
    ) -> Callable[..., Buffer]:
        """`kernel` with its attributes fixed, called once for each op, specs and attributes; the place to choose or compile."""
        if not attrs:
            return kernel
        return lambda *buffers: kernel(*buffers, **attrs)

    def compile(self, plan: Plan) -> Executable:
        """A program for a plan, run at each call of a compiled function; by default, kernels one after the other.

        All nodes are on one device and have kernels there. docs/write-a-backend.md tells how a plan is read.
        """
        from needle_core.graph.executor import executor

        return Executable(executor(plan.graph.unfused()))

    def owns(self, buffer: Buffer) -> bool:
        """Whether the memory of `buffer` is its own, writable, and no other object's without a reference to `buffer`.

        Only then does a compiled program write it; else a copy.
        """
        return False

    def synchronize(self, device: Device) -> None:
        """Return when all work given to `device` is done."""

    def set_num_threads(self, n: int) -> None:
        """Compute with at most `n` threads from now on. A backend whose threads are not its own to count leaves it be."""

    def memory_stats(self, device: Device) -> dict[str, int]:
        """Bytes on `device`: "in_use" of buffers that are alive, and what else the backend counts; empty if it counts none."""
        return {}


_backends: dict[str, Backend] = {}  # opened
_makers: dict[str, Plugin] = {}  # of these
_devices: dict[str, Device] = {}  # by name, of opened backends
_threads: int | None = None  # chosen by set_num_threads
_default: Device | None = None  # chosen by set_default_device, or found once
_chosen = False


def open_backend(name: str) -> Backend:
    """The backend called `name`, opened on first use: its devices made, its kernels and those of plugins registered.

    Raises DeviceError if no installed plugin offers it, PluginError if its plugin is broken, DeviceUnavailableError if it
    cannot be opened here.
    """
    from needle_core.plugins import registry

    with lock:
        if name in _backends:
            return _backends[name]
        plugin = registry.provider("backends", name)
        if plugin is None:
            known = ", ".join(registry.names("backends")) or "none"
            raise DeviceError(
                f"no backend is called {name!r}",
                details={"installed": known},
                hint="`needle plugins` lists what is installed and why",
            )
        backend, names, kernels = _opened(name, plugin)
        kernels |= registry.kernels(name)
        if name in _backends:  # a plugin that brings kernels has used the device meanwhile
            return _backends[name]
        register_kernels(name, kernels)
        _backends[name], _makers[name] = backend, plugin
        _devices.update({device: Device(device, backend) for device in names})
        return backend


def _opened(name: str, plugin: Plugin) -> tuple[Backend, list[str], dict[str, Kernel]]:
    """The backend of `plugin`, opened, the names of its devices, and its kernels."""
    from needle_core.plugins import registry
    from needle_core.plugins.isolation import isolated

    try:
        with isolated(plugin):
            backend: Backend = registry.find("backends", name)()
            names, kernels = list(backend.devices()), dict(backend.kernel_table())
            if _threads is not None:
                backend.set_num_threads(_threads)
            if strange := [n for n in names if str(n).partition(":")[0] != name]:
                raise DeviceError(f"it has a device {strange[0]!r}, and the names of its devices begin with {name!r}")
            if unknown := sorted(op for op in kernels if op not in OPS):
                raise ArgumentError(f"it has kernels for ops that do not exist: {', '.join(unknown)}")
    except KeyboardInterrupt:
        raise
    except BaseException as cause:  # SystemExit too
        reason = cause.summary if isinstance(cause, NeedleError) else f"{type(cause).__name__}: {cause}"
        raise DeviceUnavailableError(
            f"backend {name!r} is installed but cannot be opened: {reason}",
            details={"plugin": f"{plugin}, {plugin.value} in {plugin.site}"},
            hint=(isinstance(cause, NeedleError) and cause.hint) or f"`needle plugins why {name}`",
        ) from cause
    return backend, names, kernels


def public_functions(module: ModuleType) -> dict[str, Kernel]:
    """The kernels of `module`: its own public functions, and callables of other kinds (ufuncs, native ones) named in it."""
    return {
        name: f
        for name, f in vars(module).items()
        if not name.startswith("_")
        and callable(f)
        and get_origin(f) is None  # a type alias
        and getattr(f, "__module__", None) != "typing"
        and (getattr(f, "__module__", None) == module.__name__ or not isinstance(f, FunctionType | BuiltinFunctionType | type))
    }


def opened_backends() -> list[str]:
    """Names of the backends opened so far."""
    return list(_backends)


def maker(backend: Backend) -> Plugin | None:
    """The plugin that offers an opened backend."""
    return _makers.get(backend.name)


def device(like: DeviceLike) -> Device:
    """The device that `like` names, its backend opened if need be: "numpy", "cuda:1", or "cuda" for the first of its kind."""
    if isinstance(like, Device):
        return like
    if not isinstance(like, str):
        raise DeviceError(f"a device is named by a string, not by {type(like).__name__} {like!r}")
    if like not in _devices:
        backend = open_backend(like.partition(":")[0])
        offered = list(backend.devices())
        if like == backend.name and offered:
            return _devices[offered[0]]
        if like not in _devices:
            raise DeviceError(
                f"backend {backend.name!r} has no device {like!r}", details={"devices": ", ".join(offered) or "none"}
            )
    return _devices[like]


def default_device() -> Device:
    """The device of tensors made without one: `set_default_device`, else `NEEDLE_DEVICE`, else the best host backend."""
    global _default
    if _default is None:
        _default = device(default_device_reason()[0])
    return _default


def set_default_device(like: DeviceLike | None) -> None:
    """Make tensors on `like` unless told otherwise; None returns to the choice by `NEEDLE_DEVICE` and priority."""
    global _default, _chosen
    _default, _chosen = (None, False) if like is None else (device(like), True)


def set_num_threads(n: int) -> None:
    """Let backends on the host compute with at most `n` threads: those that are open, and those that will be.

    Without it they take what `OMP_NUM_THREADS` says, else one for each core. NumPy's linear algebra library takes that alone.
    """
    global _threads
    if type(n) is not int or n < 1:
        raise ArgumentError(f"a number of threads is a whole number from 1 on, not {brief(n)}")
    with lock:
        _threads = n
        for backend in _backends.values():
            backend.set_num_threads(n)


def chosen_device() -> Device | None:
    """The device that `set_default_device` chose; None if the choice is left to `NEEDLE_DEVICE` and priority."""
    return _default if _chosen else None


def host_backends() -> list[type[Backend]]:
    """The classes of the installed host backends, highest priority first; those of broken plugins are left out."""
    return _host_backends()[0]


def default_device_reason() -> tuple[str, str]:
    """The name of the default device, and why it is the default."""
    from needle_core.plugins import registry

    if _chosen and _default is not None:
        return _default.name, "set_default_device chose it"
    if name := os.environ.get("NEEDLE_DEVICE"):
        if registry.find("backends", name.partition(":")[0]) is None:
            known = ", ".join(registry.names("backends")) or "none"
            raise DeviceError(f"NEEDLE_DEVICE is {name!r}, but no backend is called so", details={"installed": known})
        return name, "NEEDLE_DEVICE says so"
    hosts, broken = _host_backends()
    for error in broken:
        warn(f"not considered as the default device: {error}")
    for backend in hosts:
        try:
            device(backend.name)
        except DeviceUnavailableError as error:
            warn(f"not considered as the default device: {error}")
        else:
            ranking = ", ".join(f"{b.name} {b.priority}" for b in sorted(hosts, key=lambda b: b.name))
            return backend.name, f"the host backend of highest priority ({ranking})"
    problem = "can be opened" if hosts else "is installed"
    raise DeviceError(f"no host backend {problem}", hint="pip install needle-numpy-backend")


def _host_backends() -> tuple[list[type[Backend]], list[NeedleError]]:
    """The classes of the host backends, highest priority first, and what is wrong with backends that are broken."""
    from needle_core.plugins import registry

    hosts: list[type[Backend]] = []
    broken: list[NeedleError] = []
    for name in registry.names("backends"):
        try:
            backend = registry.find("backends", name)
        except NeedleError as error:
            broken.append(error)
            continue
        if backend is not None and backend.host:
            hosts.append(backend)
    return sorted(hosts, key=lambda b: (-b.priority, b.name)), broken
