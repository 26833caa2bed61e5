"""Every example runs compiled, without a change to its statements, and leaves behind what it leaves behind eagerly.

Steps stand in the loops of the examples. `outlined` moves them into compiled functions as they are, and compiles what is called
elsewhere. Compared are what is printed, the files, all numbers, tensors, models and optimizers by name, and the random state.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn, optim, tree
from needle_core.errors import CompileError
from needle_core.graph.compiled import Compiled, compiled_functions
from tests.graph.outlining import outlined
from tests.graph.regimes import bits, different

FOLDER = Path(__file__).parents[2] / "examples"
TEXT = f"--text={argparse.__file__}"
OPTIONS: dict[str, list[str]] = {
    "mlp_resnet": ["--data=digits", "--epochs=2", "--batch=50"],
    "fashion": ["--data=digits", "--epochs=1", "--checkpoint={folder}/state"],
    "resnet9": ["--data=digits", "--epochs=1", "--batch=50", "--checkpoint={folder}/state"],
    "lstm_text": [TEXT, "--steps=20", "--columns=16", "--length=32", "--hidden=32", "--write=20"],
    "gpt": [TEXT, "--steps=20", "--length=16", "--dim=32", "--heads=2", "--layers=2", "--write=20"],
}
"""What examples with options are given, so that they end in seconds. All others are given a folder for their plots."""

MANY_CAPTURES = {
    "adam": "each gradient is a Python number",
    "gpt": "the text that it looks back at grows",
}
"""Examples that are rightly warned that they are captured many times."""

EAGER = {"weight_updates": ["recorded"]}
"""Functions that are not compiled: this one shows a graph that grows over all steps, which none in a compiled step can."""

KNOWN = (ndl.Tensor, nn.Module, optim.Optimizer, np.ndarray, np.generic, int, float, str, Path, type(None))


def executed(name: str, folder: Path, program: Callable[[str], ast.Module]) -> tuple[dict[str, Any], list[Compiled[..., Any]]]:
    """What an example leaves behind, and what it has compiled. No time passes, and memory is not measured."""
    path = FOLDER / f"{name}.py"
    module = ModuleType("__main__")
    vars(module).update(__file__=str(path), compiled=cache(ndl.compile))
    ndl.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as text, compiled_functions() as found:
        patch.setenv("NEEDLE_FALLBACK", "allow")  # for own_op
        patch.setattr(sys, "argv", [path.name, *(option.format(folder=folder) for option in OPTIONS.get(name, ["{folder}"]))])
        patch.setattr(time, "perf_counter", lambda: 0.0)
        patch.setattr(tracemalloc, "start", lambda: None)  # an example never stops it, and all that comes after would be slow
        patch.setattr(tracemalloc, "get_traced_memory", lambda: (0, 0))
        patch.setitem(sys.modules, "__main__", module)
        exec(compile(program(path.read_text()), str(path), "exec"), vars(module))
    files = {file.name: file.read_bytes() for file in folder.glob("*")}
    for file in files:
        (folder / file).unlink()
    left = {key: value for key, value in vars(module).items() if not key.startswith("_") and known(value)}
    return {
        "text": text.getvalue(), "files": files, "random": bits(ndl.random.default_generator().state),
        **{f"name {key}": bits(value) for key, value in left.items()},
    }, found  # fmt: skip


def known(value: Any) -> bool:
    leaves, _ = tree.flatten(value, whole=lambda v: isinstance(v, nn.Module | optim.Optimizer))
    return all(isinstance(leaf, KNOWN) for leaf in leaves)


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_every_example_leaves_the_same_behind_compiled(name: str, tmp_path: Path) -> None:
    program = partial(outlined, without=EAGER.get(name, ()))
    warned = pytest.warns(RuntimeWarning, match="was captured 8 times") if name in MANY_CAPTURES else nullcontext()
    with warned:
        result, found = executed(name, tmp_path, program)
    expected, _ = executed(name, tmp_path, ast.parse)
    assert different(result, expected) == []
    captured = {f.name.rpartition(".")[2] for f in found}
    functions = [n for n in ast.walk(program((FOLDER / f"{name}.py").read_text())) if isinstance(n, ast.FunctionDef)]
    moved = {f.name for f in functions if f.name.startswith("computation_")}
    assert moved
    assert moved <= captured


@pytest.mark.parametrize("name", EAGER)
def test_what_is_left_out_cannot_be_compiled(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="has a graph behind it") as caught:
        executed(name, tmp_path, outlined)
    assert not {entry.name for entry in caught.traceback}.isdisjoint(EAGER[name])


def test_tables_name_examples() -> None:
    examples = {path.stem for path in FOLDER.glob("*.py")}
    assert {*OPTIONS, *MANY_CAPTURES, *EAGER} <= examples
