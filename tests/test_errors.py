"""Errors: the one form of their messages, and of each class one that users meet, word for word."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import Tensor, errors, nn
from needle_core.data import read_idx
from needle_core.errors import ArgumentError, KernelError, NeedleError, ShapeError, brief
from needle_core.plugins import registry
from tests.devices import fallback
from tests.plugin_fixtures import Site, of, site

HERE = ndl.default_device()
# What the kernels of pow say, in the words of NumPy or of the native backend.
NO_POWER = "integers have no negative powers" if str(HERE) == "cpp" else "Integers to negative integer powers are not allowed."
MAKER = "needle-core" if str(HERE).startswith("loopback") else f"needle-{HERE}-backend"
BACKEND = HERE.backend.name

__all__ = ["fallback", "site"]

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NeedleError)]

# -- the form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ShapeError("sizes differ"), "sizes differ"),
        (ShapeError("sizes differ", details={"a": 1, "b": [2]}), "sizes differ\n  a: 1\n  b: [2]"),
        (ShapeError("sizes differ", hint="make them equal"), "sizes differ\n  hint: make them equal"),
        (ShapeError("sizes differ", details={"a": 1}, hint="x"), "sizes differ\n  a: 1\n  hint: x"),
    ],
)
def test_message_is_the_summary_then_details_then_the_hint(error: NeedleError, text: str) -> None:
    assert str(error) == text


def test_located_error_starts_with_the_place_and_its_operands() -> None:
    error = ShapeError("sizes differ", details={"axis": 0}, hint="x")
    assert error.located("matmul", {"a": 1, "b": 2}) is error
    assert str(error) == "matmul: sizes differ\n  a: 1\n  b: 2\n  axis: 0\n  hint: x"


def test_innermost_place_stays() -> None:
    error = ShapeError("sizes differ").located("inner", {"a": 1}).located("outer", {"x": 2})
    assert str(error) == "inner: sizes differ\n  a: 1"


@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_survives_copies_whole(kind: type[NeedleError], duplicate: Callable[[NeedleError], NeedleError]) -> None:
    error = kind("sizes differ", details={"axis": 0}, hint="x").located("matmul", {"a": 1})
    other = duplicate(error)
    assert (type(other), str(other)) == (kind, str(error))


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not NeedleError], ids=lambda kind: kind.__name__)
def test_error_is_a_needle_error_and_the_builtin_that_fits(kind: type[NeedleError]) -> None:
    assert kind.__name__.endswith("Error")
    assert kind.__doc__
    assert len([base for base in kind.__bases__ if base.__module__ == "builtins"]) == 1
    assert kind.__bases__[0] is NeedleError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (3, "3"),
        (True, "True"),
        (1.5, "1.5"),
        ("a\nb", r"'a\nb'"),
        ([1, 2], "list [1, 2]"),
        (np.arange(2), "ndarray array([0, 1])"),
        (np.eye(2), "ndarray array([[1., 0.], [0., 1.]])"),
        (2**64 - 1, "18446744073709551615"),
        (-(10**5000), "an integer of 16610 bits"),
        ("x" * 100, "'" + "x" * 56 + "..."),
        (list(range(100)), "list [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."),
    ],
    ids=lambda v: type(v).__name__,
)
def test_brief_shows_type_and_beginning(value: Any, text: str) -> None:
    assert brief(value) == text


# -- one of each class, through the public interface --------------------------------------------------------------------------


@ndl.primitive(lambda x: (x, {}))
def lonely(x: Tensor) -> Tensor:
    """Without a kernel anywhere."""


class Cube(ndl.TensorOp):
    def compute(self, x: Any) -> Any:
        return x**3


def freed() -> None:
    x = Tensor(2.0, requires_grad=True)
    y = x * x
    y.backward()
    y.backward()


def _number(x: Tensor) -> float:
    return float(x)


EXAMPLES: dict[str, tuple[Callable[[], Any], str]] = {
    "ShapeError": (
        lambda: ndl.ones((32, 784)) @ ndl.ones((128, 784)),
        f"matmul: inner dimensions differ, 784 != 128\n  a: float32[32, 784] on {HERE}\n  b: float32[128, 784] on {HERE}\n"
        "  hint: a @ b.mT has shape [32, 128]",
    ),
    "DtypeError": (
        lambda: Tensor([1, 2], requires_grad=True),
        f"only floating tensors have gradients, not int64\n  tensor: int64[2] on {HERE}",
    ),
    "ArgumentError": (
        lambda: ndl.sum(Tensor([1.0]), dim=0),
        f"sum: has no attribute 'dim'\n  x: float32[1] on {HERE}\n  attributes: axis, axes, keepdims",
    ),
    "CompileError": (
        lambda: ndl.compile(_number)(Tensor([1.0])),
        "a compiled function has no numbers to look at: it is captured once, without computing\n"
        f"  tensor: float32[1] on {HERE}\n  line: test_errors.py:{_number.__code__.co_firstlineno + 1}\n"
        "  capturing: _number; no tensor was changed\n"
        "  hint: ndl.where(condition, a, b) chooses between tensors; return the tensor to look at it after the call",
    ),
    "BoundsError": (
        lambda: ndl.take(Tensor([1.0, 2.0]), Tensor([5])),
        f"take: index 5 is out of bounds for axis 0 with size 2\n  x: float32[2] on {HERE}\n  indices: int64[1] on {HERE}",
    ),
    "MissingKernelError": (
        lambda: lonely(Tensor([1.0])),
        f"lonely: backend '{BACKEND}' has no kernel for this primitive\n  x: float32[1] on {HERE}\n  kernels: none",
    ),
    "MissingGradientError": (
        lambda: Cube()(Tensor([1.0], requires_grad=True)).backward(),
        f"gradient of Cube: no gradient rule\n  x: float32[1] on {HERE}\n  hint: define Cube.gradient(self, out_grad, node)",
    ),
    "GradientError": (
        freed,
        f"the graph behind this tensor has been freed by an earlier backward()\n  op: multiply\n  output: float32[] on {HERE}\n"
        "  hint: backward(retain_graph=True) keeps it",
    ),
    "KernelError": (
        lambda: Tensor([2]) ** -1,
        f"pow: the kernel raised ValueError: {NO_POWER}\n"
        f"  a: int64[1] on {HERE}\n  b: int64[] on {HERE}\n"
        f"  kernel: of {MAKER} {version(MAKER)}; `needle conform {MAKER}` checks it",
    ),
    "StateError": (
        lambda: nn.Linear(2, 3).load_state_dict({"weight": Tensor([1.0]), "extra": Tensor([1.0])}),
        "the state does not fit Linear; nothing was loaded\n  missing: bias\n  unexpected: extra\n"
        "  misshapen: weight is float32[1], not float32[2, 3]",
    ),
    "CheckpointError": (
        lambda: ndl.checkpoint.save("never-written", {"a": [object()]}),
        "a checkpoint cannot hold builtins.object\n  at: tree['a'][0]",
    ),
    "DataError": (
        lambda: read_idx(Path(__file__)),
        f"{__file__}: not an IDX file\n  found: 22 22 22 45\n"
        "  expected: 00 00, a type code of 08, 09, 0b, 0c, 0d, 0e, the axes",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("fallback")
def test_error_is_of_its_class_and_reads_word_for_word(name: str) -> None:
    run, text = EXAMPLES[name]
    with pytest.raises(NeedleError) as caught:
        run()
    assert (type(caught.value).__name__, str(caught.value)) == (name, text)


def test_device_error_reads_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDLE_PLUGINS", "numpy")
    registry.forget()
    with pytest.raises(errors.DeviceError) as caught:
        Tensor(1.0, device="tpu")
    hint = "`needle plugins` lists what is installed and why"
    assert str(caught.value) == f"no backend is called 'tpu'\n  installed: numpy\n  hint: {hint}"
    registry.forget()


def test_device_unavailable_error_reads_word_for_word(site: Site) -> None:
    source = """
    from needle_core.plugins import hookimpl
    from needle_core.backend import Backend
    needle_api = 1

    class Wanted(Backend):
        name = "wanted"
        def __init__(self): raise OSError("no driver")
        def devices(self): ...
        def from_numpy(self, array, device): ...
        def to_numpy(self, buffer): ...
        def empty(self, shape, dtype, device): ...

    @hookimpl
    def needle_register_backends(registrar):
        registrar.backend(Wanted)
    """
    site.install("needle-wanted", of("needle_wanted"), source)
    with pytest.raises(errors.DeviceUnavailableError) as caught:
        ndl.device("wanted")
    assert str(caught.value) == (
        "backend 'wanted' is installed but cannot be opened: OSError: no driver\n"
        f"  plugin: needle-wanted 1.0, needle_wanted in {site.folder}\n  hint: `needle plugins why wanted`"
    )
    assert isinstance(caught.value.__cause__, OSError)


def test_plugin_error_reads_word_for_word(site: Site) -> None:
    site.install("needle-wanted", of("needle_wanted"), "raise RuntimeError('boom')")
    with pytest.raises(errors.PluginError) as caught:
        ndl.device("wanted")
    assert str(caught.value) == (
        "needle-wanted 1.0: import: RuntimeError: boom\n"
        f"  plugin: needle_wanted in {site.folder}/needle_wanted.py\n  hint: `needle plugins why needle-wanted`"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_every_class_has_its_example() -> None:
    elsewhere = {"NeedleError", "DeviceError", "DeviceUnavailableError", "PluginError"}
    assert {kind.__name__ for kind in CLASSES} == EXAMPLES.keys() | elsewhere


def test_cause_of_a_kernel_error_is_chained() -> None:
    with pytest.raises(KernelError) as caught:
        Tensor([2]) ** -1
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda: ndl.tree.unflatten(ndl.tree.flatten([1, 2])[1], [1]), "too few leaves for the tree [*, *]: 1"),
        (lambda: ndl.tree.unflatten(ndl.tree.flatten((1, None))[1], [1, 2, 3]), "2 leaves too many for the tree (*, None)"),
        (
            lambda: ndl.tree.map(lambda a, b: a, [1, {"k": 2}], (1, 2)),
            "the trees differ in structure\n  first: [*, dict(*)]\n  other: (*, *)",
        ),
    ],
    ids=["too few", "too many", "structure"],
)
def test_tree_that_does_not_fit_is_shown(run: Callable[[], Any], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        run()
    assert str(caught.value) == text
