"""Devices: found by name, opened once, chosen as the default, and kept apart."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Backend, Tensor, backend as backends, op, random
from needle_core.errors import ArgumentError, DeviceError, DeviceUnavailableError, MissingKernelError, NeedleError, PluginError
from needle_core.plugins import registry
from tests.plugin_fixtures import HEAD, Site, site

__all__ = ["site"]

SECOND = """
from needle_numpy_backend.backend import NumpyBackend

class Second(NumpyBackend):
    name, priority = "second", {priority}
    host = {host}
    opened = 0
    def __init__(self):
        Second.opened += 1
        {opening}
    def devices(self): return {devices}
    {more}

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Second)
"""

Install = Callable[..., Any]


@pytest.fixture
def install(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a backend called "second", which computes as NumPy does; the tables are as before after the test."""
    monkeypatch.setattr(backends, "_backends", dict(backends._backends))
    monkeypatch.setattr(backends, "_devices", dict(backends._devices))
    monkeypatch.setattr(op, "KERNELS", {place: kernel for place, kernel in op.KERNELS.items() if place[1] == "numpy"})
    monkeypatch.setattr(random, "_generators", {})

    def second(**given: Any) -> Any:
        options = {"priority": 50, "host": True, "opening": "", "devices": ["second:0", "second:1"], "more": "", **given}
        site.install("needle-second", {"backends": {"second": "needle_second"}}, HEAD + SECOND.format(**options))
        monkeypatch.setenv("NEEDLE_PLUGINS", "numpy,second")
        registry.forget()

    ndl.set_default_device("numpy")
    yield second
    ndl.set_default_device(None)


def python(code: str, **environment: str) -> str:
    """What `code` prints in a fresh interpreter, or the last line of its error."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("NEEDLE_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**known, **environment}, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else done.stderr


# -- by name --------------------------------------------------------------------------------------------------------------


def test_device_is_one_object_for_each_name(install: Install) -> None:
    install()
    assert ndl.device("second") is ndl.device("second:0")
    assert ndl.device("second:1") is not ndl.device("second:0")
    assert ndl.device(ndl.device("second:1")) is ndl.device("second:1")
    assert [str(ndl.device(name)) for name in ("second", "second:1", "numpy")] == ["second:0", "second:1", "numpy"]


def test_backend_is_opened_once_and_only_when_wanted(install: Install) -> None:
    install()
    assert "second" not in backends.opened_backends()
    ndl.device("second:1")
    ndl.device("second")
    assert backends.opened_backends().count("second") == 1
    assert registry.find("backends", "second").opened == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "tpu",
            "no backend is called 'tpu'\n  installed: numpy, second\n  hint: `needle plugins` lists what is installed and why",
        ),
        (
            "tpu:3",
            "no backend is called 'tpu'\n  installed: numpy, second\n  hint: `needle plugins` lists what is installed and why",
        ),
        ("", "no backend is called ''\n  installed: numpy, second\n  hint: `needle plugins` lists what is installed and why"),
        ("second:2", "backend 'second' has no device 'second:2'\n  devices: second:0, second:1"),
        ("numpy:0", "backend 'numpy' has no device 'numpy:0'\n  devices: numpy"),
        (3, "a device is named by a string, not by int 3"),
        (None, "a device is named by a string, not by NoneType None"),
    ],
)
def test_unknown_device_is_refused(install: Install, name: Any, text: str) -> None:
    install()
    with pytest.raises(DeviceError) as caught:
        ndl.device(name)
    assert str(caught.value) == text


def test_backend_without_devices_says_so(install: Install) -> None:
    install(devices=[])
    with pytest.raises(DeviceError) as caught:
        ndl.device("second")
    assert str(caught.value) == "backend 'second' has no device 'second'\n  devices: none"


@pytest.mark.parametrize(
    ("opening", "reason", "cause"),
    [
        ("raise OSError('libfast.so.2: cannot open shared object file')", "OSError: libfast.so.2: cannot open", OSError),
        ("from needle_core.errors import ArgumentError; raise ArgumentError('no accelerator')", "no accelerator", NeedleError),
        ("import needle_no_library", "ModuleNotFoundError: No module named 'needle_no_library'", ModuleNotFoundError),
    ],
)
def test_backend_that_cannot_be_opened_says_why(install: Install, opening: str, reason: str, cause: type[Exception]) -> None:
    install(opening=opening)
    for _ in range(2):
        with pytest.raises(DeviceUnavailableError) as caught:
            ndl.device("second")
        assert str(caught.value).startswith(f"backend 'second' is installed but cannot be opened: {reason}")
        assert isinstance(caught.value.__cause__, cause)
    assert "second" not in backends.opened_backends()


def test_backend_that_knows_the_remedy_says_it_to_the_user(install: Install) -> None:
    missing = "raise DeviceUnavailableError('no driver', hint='apt-get install driver')"
    install(opening=f"from needle_core.errors import DeviceUnavailableError; {missing}")
    with pytest.raises(DeviceUnavailableError, match=r"cannot be opened: no driver\n.*\n  hint: apt-get install driver"):
        ndl.device("second")


def test_kernels_for_ops_that_do_not_exist_are_refused(install: Install, site: Site) -> None:
    (site.folder / "needle_second_kernels.py").write_text("def nonsense(x): return x\ndef add(a, b): return a\n")
    install(more="import needle_second_kernels; kernels = (needle_second_kernels,)")
    with pytest.raises(DeviceUnavailableError) as caught:
        ndl.device("second")
    assert str(caught.value) == (
        "backend 'second' is installed but cannot be opened: it has kernels for ops that do not exist: nonsense\n"
        f"  plugin: needle-second 1.0, needle_second in {site.folder}\n  hint: `needle plugins why second`"
    )
    assert not [name for name, backend in op.KERNELS if backend == "second"]


@pytest.mark.parametrize("devices", [["numpy"], ["second:0", "secondary"], [0], ["cuda:0"]])
def test_backend_names_its_devices_after_itself(install: Install, devices: list[Any]) -> None:
    numpy = ndl.device("numpy")
    install(devices=devices)
    with pytest.raises(DeviceUnavailableError, match=f"it has a device {devices[-1]!r}, and the names"):
        ndl.device("second")
    assert ndl.device("numpy") is numpy


def test_blocked_backend_is_a_plugin_error(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("NEEDLE_PLUGINS", "-second")
    with pytest.raises(PluginError, match="backend 'second' is blocked by NEEDLE_PLUGINS=-second"):
        ndl.device("second")


def test_backend_is_an_interface() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Backend()


BARE = """
import numpy as np
from needle_core.backend import Backend
import needle_bare_kernels

class Bare(Backend):
    name, kernels = "bare", (needle_bare_kernels,)
    def devices(self): return ["bare"]
    def from_numpy(self, array, device): return array.tolist()
    def to_numpy(self, buffer): return np.array(buffer, np.float32)
    def empty(self, shape, dtype, device): raise NotImplementedError

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Bare)
"""
BARE_KERNELS = """
def exp(x): return [2.0 ** v for v in x]
def permute_dims(x, *, axes): return x[::-1]
def _private(x): ...
"""


@pytest.mark.usefixtures("install")
def test_backend_needs_little_and_its_buffers_may_be_anything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.folder / "needle_bare_kernels.py").write_text(BARE_KERNELS)
    site.install("needle-bare", {"backends": {"bare": "needle_bare"}}, HEAD + BARE)
    registry.forget()
    x = Tensor([1.0, 3.0], device="bare")
    assert x.buffer == [1, 3]
    assert ndl.exp(x).buffer == [2, 8]
    assert x.T.buffer == [3, 1]
    assert repr(x) == "Tensor([1., 3.], float32[2] on bare)"
    assert (x.device.backend.memory_stats(x.device), x.device.backend.synchronize(x.device)) == ({}, None)
    with pytest.raises(MissingKernelError, match=r"^sin: backend 'bare' has no kernel for this primitive\n"):
        ndl.sin(x)


def test_backend_may_make_its_kernels_when_it_opens(install: Install) -> None:
    install(more="def kernel_table(self): return {'exp': lambda x: x * 2}")
    assert ndl.exp(Tensor([1.0, 3.0], device="second")).numpy().tolist() == [2, 6]


def test_names_from_typing_are_no_kernels(site: Site) -> None:
    (site.folder / "needle_typed_kernels.py").write_text(
        "from typing import Any, Protocol, TypeAlias\nArray: TypeAlias = Any\ndef exp(x: Array) -> Array: return x\n"
    )
    module = importlib.import_module("needle_typed_kernels")
    assert list(backends.public_functions(module)) == ["exp"]


# -- the default ------------------------------------------------------------------------------------------------------------


def test_number_of_threads_reaches_backends_that_are_open_and_those_that_will_be(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_threads", None)
    told = "threads = []\n    def set_num_threads(self, n): Second.threads.append(n)"
    install(more=told)
    ndl.set_num_threads(3)
    cls = type(ndl.device("second").backend)
    ndl.set_num_threads(1)
    assert cls.threads == [3, 1]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"], ids=repr)
def test_what_is_no_number_of_threads_is_refused(n: Any) -> None:
    with pytest.raises(ArgumentError, match="a number of threads is a whole number from 1 on, not "):
        ndl.set_num_threads(n)


@pytest.mark.usefixtures("install")
def test_default_is_numpy_where_nothing_else_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_PLUGINS", "numpy")
    registry.forget()
    ndl.set_default_device(None)
    assert ndl.default_device() is ndl.device("numpy")
    assert backends.default_device_reason() == ("numpy", "the host backend of highest priority (numpy 0)")


@pytest.mark.parametrize(
    ("options", "name", "hosts"),
    [
        ({"priority": 50}, "second:0", "numpy 0, second 50"),
        ({"priority": -1}, "numpy", "numpy 0, second -1"),
        ({"priority": 50, "host": False}, "numpy", "numpy 0"),
    ],
    ids=["higher", "lower", "accelerator"],
)
def test_default_is_the_host_backend_of_highest_priority(install: Install, options: Any, name: str, hosts: str) -> None:
    install(**options)
    ndl.set_default_device(None)
    assert str(ndl.default_device()) == name
    assert backends.default_device_reason() == (name.partition(":")[0], f"the host backend of highest priority ({hosts})")
    assert str(Tensor(1.0).device) == str(ndl.ones(2).device) == name


def test_default_can_be_set_and_given_back(install: Install) -> None:
    install(priority=-1)
    ndl.set_default_device("second:1")
    assert str(Tensor([1.0]).device) == "second:1"
    assert backends.default_device_reason() == ("second:1", "set_default_device chose it")
    ndl.set_default_device(None)
    assert str(Tensor([1.0]).device) == "numpy"


def test_default_that_cannot_be_found_leaves_the_old_one(install: Install) -> None:
    with pytest.raises(DeviceError):
        ndl.set_default_device("tpu")
    assert str(ndl.default_device()) == "numpy"


def test_broken_plugin_is_warned_of_and_passed_over(install: Install, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("needle-broken", {"backends": {"broken": "needle_broken"}}, "raise RuntimeError('boom')")
    monkeypatch.setenv("NEEDLE_PLUGINS", "numpy,broken")
    registry.forget()
    ndl.set_default_device(None)
    with pytest.warns(
        RuntimeWarning, match="^not considered as the default device: needle-broken 1.0: import: RuntimeError: boom"
    ):
        assert str(ndl.default_device()) == "numpy"


def test_a_host_that_cannot_be_opened_is_warned_of_and_passed_over(install: Install) -> None:
    opening = "from needle_core.errors import DeviceUnavailableError; raise DeviceUnavailableError('no AVX2')"
    install(priority=50, opening=opening)
    ndl.set_default_device(None)
    with pytest.warns(RuntimeWarning, match="^not considered as the default device: .*second.* cannot be opened: no AVX2"):
        assert str(ndl.default_device()) == "numpy"


def test_no_host_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda group: [])
    monkeypatch.delenv("NEEDLE_DEVICE", raising=False)
    ndl.set_default_device(None)
    with pytest.raises(DeviceError) as caught:
        ndl.default_device()
    assert str(caught.value) == "no host backend is installed\n  hint: pip install needle-numpy-backend"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("numpy", "numpy ('numpy', 'NEEDLE_DEVICE says so')"),
        ("", "numpy ('numpy', 'the host backend of highest priority (numpy 0)')"),
        ("tpu", "needle_core.errors.DeviceError: NEEDLE_DEVICE is 'tpu', but no backend is called so\n  installed: numpy"),
    ],
)
def test_environment_chooses_the_default(name: str, expected: str) -> None:
    code = "from needle_core import Tensor, backend; print(Tensor(1).device, backend.default_device_reason())"
    assert expected in python(code, NEEDLE_DEVICE=name, NEEDLE_PLUGINS="numpy")


def test_chosen_device_is_what_was_set(install: Install) -> None:
    install()
    ndl.set_default_device("second:1")
    assert backends.chosen_device() is ndl.device("second:1")
    ndl.set_default_device(None)
    ndl.default_device()
    assert backends.chosen_device() is None


def test_host_backends_come_by_priority(install: Install) -> None:
    install(priority=50)
    assert [b.name for b in backends.host_backends()] == ["second", "numpy"]


# -- apart and together ---------------------------------------------------------------------------------------------------


def test_tensor_is_made_where_asked(install: Install) -> None:
    install()
    for t in (Tensor([1.0], device="second:1"), ndl.ones(1, device="second:1"), ndl.arange(1, device="second:1")):
        assert str(t.device) == "second:1"
        assert [str(u.device) for u in (t + 1, 1 + t, t.sum(), ndl.zeros_like(t), t[0], t.data)] == ["second:1"] * 6
    assert repr(Tensor([1.0], device="second:1")) == "Tensor([1.], float32[1] on second:1)"


@pytest.mark.parametrize(
    "combine",
    [lambda a, b: a + b, lambda a, b: ndl.add(a, b), lambda a, b: ndl.add(b, a)],
    ids=["operator", "op", "reversed"],
)
def test_operands_on_different_devices_are_refused(install: Install, combine: Callable[..., Tensor]) -> None:
    install()
    a, b = Tensor([1.0]), Tensor([1.0], device="second")
    for _ in range(2):
        with pytest.raises(DeviceError) as caught:
            combine(a, b)
        first, *rest = str(caught.value).splitlines()
        assert first == "add: operands are on different devices"
        assert sorted(line[5:] for line in rest[:2]) == ["float32[1] on numpy", "float32[1] on second:0"]
        assert rest[2:] == ["  hint: x.to(device) copies a tensor"]


def test_tensor_op_refuses_operands_on_different_devices(install: Install) -> None:
    install()

    class Sum(ndl.TensorOp):
        def compute(self, a: Any, b: Any) -> Any:
            return a + b

    assert str(Sum()(Tensor([1.0], device="second"), 2).device) == "second:0"
    with pytest.raises(DeviceError) as caught:
        Sum()(Tensor([1.0]), Tensor([1.0], device="second"))
    assert str(caught.value) == (
        "Sum: operands are on different devices\n  a: float32[1] on numpy\n  b: float32[1] on second:0\n"
        "  hint: x.to(device) copies a tensor"
    )


def test_tensor_op_needs_host_memory(install: Install) -> None:
    install(host=False)

    class Same(ndl.TensorOp):
        def compute(self, x: Any) -> Any:
            return x

    with pytest.raises(MissingKernelError) as caught:
        Same()(Tensor([1.0], device="second"))
    assert str(caught.value) == (
        "Same: a TensorOp computes on host arrays, and second:0 does not keep its buffers there\n  x: float32[1] on second:0\n"
        "  hint: NEEDLE_FALLBACK=warn moves them"
    )


def test_dlpack_needs_host_memory(install: Install) -> None:
    install(host=False)
    with pytest.raises(DeviceError) as caught:
        np.from_dlpack(Tensor([1.0], device="second"))
    assert str(caught.value) == "no DLPack view of a tensor on second:0\n  tensor: float32[1] on second:0"


def test_data_of_another_device_is_refused(install: Install) -> None:
    install()
    w = Tensor([1.0])
    with pytest.raises(DeviceError) as caught:
        w.data = Tensor([2.0], device="second")
    assert str(caught.value) == (
        "data: the new value does not fit in the place of the old\n  old: float32[1] on numpy\n  new: float32[1] on second:0"
    )


def test_tensor_moves_and_its_gradient_moves_back(install: Install) -> None:
    install()
    x = Tensor([1.0, 2.0], requires_grad=True)
    there = x.to("second:1")
    assert (str(there.device), there.tolist(), there.to("second:1") is there) == ("second:1", [1, 2], True)
    (there * there).sum().backward()
    assert x.grad is not None
    assert (str(x.grad.device), x.grad.tolist()) == ("numpy", [2, 4])
    second = ndl.grad(lambda x: ndl.grad(lambda x: (x.to("second") ** 3).to("numpy"))(x))(Tensor(2.0))
    assert second.item() == 12


def test_tensor_of_a_tensor_moves_only_when_asked(install: Install) -> None:
    install()
    there = Tensor([1.0], device="second")
    assert str(Tensor(there).device) == "second:0"
    assert str(Tensor(there, device="numpy").device) == "numpy"


def test_each_device_has_constants_of_its_own(install: Install) -> None:
    install()
    results = [Tensor([1.0], device=name) * 41.5 for name in ("numpy", "second:0", "second:1", "numpy")]
    assert [str(t.device) for t in results] == ["numpy", "second:0", "second:1", "numpy"]


def test_generators_of_all_devices_draw_the_same_numbers(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(random, "_seed", 0)
    ndl.manual_seed(3)
    here, there = random.default_generator("numpy"), random.default_generator("second")
    assert here.state.tolist() == there.state.tolist() == [~3, 0]
    drawn = there.normal(5)
    assert str(drawn.device) == "second:0"
    assert drawn.tolist() == here.normal(5).tolist()


def test_primitive_without_a_kernel_there_names_who_has_one(install: Install) -> None:
    install(more="kernels = ()")
    x = Tensor([1.0], device="second")
    with pytest.raises(MissingKernelError) as caught:
        ndl.exp(x)
    assert str(caught.value) == (
        "exp: backend 'second' has no kernel for this primitive\n  x: float32[1] on second:0\n  kernels: numpy\n"
        "  hint: NEEDLE_FALLBACK=warn lets numpy compute it"
    )


def test_composite_runs_by_its_body_where_there_is_no_kernel(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    x = Tensor([[1.0, 2.0, 3.0]], device="second")
    monkeypatch.delitem(op.KERNELS, ("softmax", "second"))
    e = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(ndl.softmax(x).numpy()[0], e / e.sum(), rtol=1e-6)
