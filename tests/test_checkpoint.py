"""Checkpoints: what goes in comes out, others can read it, and no crash tears it."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings, strategies as st

import needle_core as ndl
from needle_core import checkpoint
from needle_core.errors import CheckpointError
from needle_core.spec import DTYPES


def same(a: Any, b: Any) -> bool:
    """Equal in structure, types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ndl.Tensor):
        return a.spec is b.spec and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(
    plain | st.builds(lambda values: ndl.Tensor(np.array(values, np.float32)), st.lists(st.floats(width=32), max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", "a.b", "0", "", "tensor", "__metadata__"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(tree=trees)
@settings(max_examples=60, deadline=None)
def test_a_tree_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    checkpoint.save(path, tree)
    assert same(checkpoint.load(path), tree)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_of_every_dtype_keep_their_bits(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(math.prod(shape)).reshape(shape).astype(DTYPES[dtype].numpy)
    checkpoint.save(tmp_path / "t", [ndl.Tensor(values)])
    (loaded,) = checkpoint.load(tmp_path / "t")
    assert loaded.spec == ndl.Spec.of(shape, DTYPES[dtype], ndl.default_device())
    assert loaded.numpy().tobytes() == values.tobytes()


def test_arrays_in_other_orders_keep_their_values(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    checkpoint.save(tmp_path / "t", {"transposed": array.T, "strided": array[:, ::2], "big endian": array.astype(">f8")})
    loaded = checkpoint.load(tmp_path / "t")
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["strided"].tolist() == [[0, 2], [3, 5]]
    assert loaded["big endian"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_other_readers_of_safetensors_see_the_tensors_by_their_paths(tmp_path: Path) -> None:
    weight = np.array([1, 2.5], ml_dtypes.bfloat16)
    checkpoint.save(tmp_path / "t", {"model": {"0.weight": ndl.Tensor(weight)}, "moments": [np.float32([3])[:1]]})
    read = safetensors.numpy.load_file(tmp_path / "t")
    assert sorted(read) == ["model.0.weight", "moments.0"]
    assert same(read["model.0.weight"], weight)


def test_equal_trees_give_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        tree = {f"tensor {i}": ndl.Tensor([i]) for i in range(20)} | {"lr": 0.1, "name": "x"}
        checkpoint.save(tmp_path / name, tree)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_new_process_loads_bfloat16(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "t", ndl.Tensor([1.5], dtype="bfloat16"))
    code = f"from needle_core import checkpoint; print(checkpoint.load({str(tmp_path / 't')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"Tensor([1.5], bfloat16[1] on {ndl.default_device()})\n"


def test_tensors_come_to_the_device_asked_for(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "t", ndl.Tensor([1.5]))
    assert checkpoint.load(tmp_path / "t", device="numpy").device is ndl.device("numpy")
    with pytest.raises(ndl.errors.DeviceError, match="no backend is called 'abacus'"):
        checkpoint.load(tmp_path / "t", device="abacus")


class Unknown:
    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": [1, {"b": np.float64(3)}]}, "a checkpoint cannot hold numpy.float64\n  at: tree['a'][1]['b']"),
        ((np.array(["x"]),), "a checkpoint cannot hold arrays of <U1\n  at: tree[0]"),
        ({1: 2}, "the keys of dicts in a checkpoint are text, not 1\n  at: tree"),
        ({"a": {True}}, "a checkpoint cannot hold builtins.set\n  at: tree['a']"),
        ([Unknown()], f"a checkpoint cannot hold {__name__}.Unknown\n  at: tree[0]\n  hint: save its state_dict()"),
    ],
)
def test_a_value_that_cannot_be_saved_is_named_and_nothing_is_written(tmp_path: Path, tree: Any, text: str) -> None:
    checkpoint.save(tmp_path / "t", "old")
    with pytest.raises(CheckpointError) as error:
        checkpoint.save(tmp_path / "t", tree)
    assert str(error.value) == text
    assert checkpoint.load(tmp_path / "t") == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["t"]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "t")
    assert str(error.value) == f"{tmp_path / 't'}: there is no such file"


def test_a_file_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "t", {"w": ndl.Tensor([1.0, 2.0])})
    content = (tmp_path / "t").read_bytes()
    for size in range(len(content)):
        (tmp_path / "t").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="t: truncated, or no safetensors file\n  found: "):
            checkpoint.load(tmp_path / "t")


def test_a_safetensors_file_of_others_is_an_error(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"w": np.zeros(2)}, tmp_path / "t")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "t")
    summary = f"{tmp_path / 't'}: a safetensors file, but not a checkpoint"
    hint = "nn.pytorch.load takes the states of PyTorch's models; safetensors.numpy.load_file reads any"
    assert str(error.value) == f"{summary}\n  hint: {hint}"


def test_another_version_of_the_format_is_an_error(tmp_path: Path) -> None:
    safetensors.numpy.save_file({}, tmp_path / "t", metadata={"needle": '{"version": 2, "tree": {"new": 1}}'})
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "t")
    assert str(error.value) == f"{tmp_path / 't'}: a checkpoint in version 2 of the format; this release reads version 1"


@pytest.mark.parametrize(
    "metadata",
    ["", "[]", "{}", '{"version": 1}']
    + [
        json.dumps({"version": 1, "tree": node})
        for node in (
            {"tensor": "w"},
            {"tensor": []},
            {"pickle": "x"},
            {},
            {"dict": 1},
            {"float": "?"},
            {"list": [], "tuple": []},
        )
    ],
)
def test_garbled_metadata_are_an_error(tmp_path: Path, metadata: str) -> None:
    safetensors.numpy.save_file({"u": np.zeros(2)}, tmp_path / "t", metadata={"needle": metadata})
    with pytest.raises(CheckpointError, match="t: its metadata do not describe a checkpoint\n  found: "):
        checkpoint.load(tmp_path / "t")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        checkpoint.save(tmp_path / "none" / "t", 1)
    assert str(error.value) == f"{tmp_path / 'none' / 't'}: cannot be written: No such file or directory"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()  # a file cannot take the place of a folder
    with pytest.raises(CheckpointError, match="t: cannot be written: Is a directory"):
        checkpoint.save(tmp_path / "t", 1)
    assert [f.name for f in tmp_path.iterdir()] == ["t"]


KILLED_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
from needle_core import Tensor, checkpoint

path = Path(sys.argv[1])
trees = [{"step": i, "weight": Tensor([float(i)] * 1000)} for i in range(2)]
files = []
for tree in trees:
    checkpoint.save(path, tree)
    files.append(path.read_bytes())
found = ""
for lines in range(10_000):
    checkpoint.save(path, trees[0])
    if (child := os.fork()) == 0:
        def trace(frame, event, arg):
            global lines
            if frame.f_code.co_filename == checkpoint.__file__:
                lines -= event == "line"
                if lines < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace
        sys.settrace(trace)
        checkpoint.save(path, trees[1])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found += str(files.index(path.read_bytes()))
    if status == 0:
        break
checkpoint.save(path, trees[1])
print(found, *(f.name for f in path.parent.iterdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
def test_killed_at_any_line_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(tmp_path / "t")]
    found, *files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == "0" * found.count("0") + "1" * found.count("1")
    assert found.count("0") > 30
    assert found.count("1") > 1
    assert files == ["t"]  # what the killed writers had left is gone
